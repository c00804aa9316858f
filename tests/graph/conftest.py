"""Tiny checkpoints, made once per run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from fam_graph.reference.components import ReferenceComponents
from tests.checkpoints import KINDS, Kind, make_checkpoint


@pytest.fixture(autouse=True)
def _torch_settings() -> Iterator[None]:
    """A fixed seed, no gradients, one thread: tensors this small only lose by sharing."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """Directory of each kind of checkpoint."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="session")
def all_components(checkpoints: dict[Kind, Path]) -> dict[Kind, ReferenceComponents]:
    """Each checkpoint as diffusers loads it."""
    return {kind: ReferenceComponents.from_pretrained(path) for kind, path in checkpoints.items()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every kind of checkpoint in turn."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def components(kind: Kind, all_components: dict[Kind, ReferenceComponents]) -> ReferenceComponents:
    """The checkpoint of this kind, with diffusers' own attention processors."""
    loaded = all_components[kind]
    loaded.unet.set_attn_processor(AttnProcessor2_0())
    loaded.vae.set_attn_processor(AttnProcessor2_0())
    return loaded
