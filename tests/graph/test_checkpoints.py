"""The tiny checkpoints: alike for the same seed, and alive."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from fam_graph.reference.am_dense import AttentionMaps, processors_in_place
from fam_graph.reference.components import ReferenceComponents
from fam_graph.reference.pipeline import recording
from tests.checkpoints import Kind, make_checkpoint


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_files(checkpoints: dict[Kind, Path], kind: Kind, tmp_path: Path) -> None:
    again = digests(make_checkpoint(kind, tmp_path / "again"))
    assert again == digests(checkpoints[kind])
    other = digests(make_checkpoint(kind, tmp_path / "other", seed=1))
    changed = {name for name in again if again[name] != other[name]}
    assert "unet/diffusion_pytorch_model.safetensors" in changed
    assert not any(name.startswith("tokenizer") for name in changed)
    assert not any(name.endswith(".bin") for name in again)


def test_tap_attention_is_neither_uniform_nor_saturated(components: ReferenceComponents) -> None:
    recorded = AttentionMaps()
    conditions = components.conditions(["the red cat"], None, False, (16, 16))
    with processors_in_place(components.unet, recording(components, recorded)):
        output = components.unet(
            torch.randn(1, 4, 16, 16),
            500,
            conditions.prompt_embeds,
            added_cond_kwargs=conditions.added,
        ).sample
    assert 0.2 < float(output.std()) < 5
    for attention_map in recorded.maps.values():
        tokens = attention_map.shape[-1]
        strongest = float(attention_map.max(dim=-1).values.mean())
        assert 2 / tokens < strongest < 0.95
