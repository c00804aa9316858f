"""Tiny checkpoints and bundles that several tests of the exporter read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fam_export.checkpoint import open_checkpoint
from fam_export.exporter import export
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SD 1.5-shaped checkpoint; read only."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_checkpoint("sd15", folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle with a 2x target; read only."""
    output = tmp_path_factory.mktemp("bundles") / "tiny"
    export(open_checkpoint(tiny_checkpoint), output, scales=["2"])
    return output
