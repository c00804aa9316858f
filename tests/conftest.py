"""Tiny random checkpoints and their bundles, exported once for all tests that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fam_export.checkpoint import open_checkpoint
from fam_export.exporter import export
from fam_export.options import ExportOptions
from tests.checkpoints import KINDS, Kind, make_checkpoint

SCALES = ("2", "3", "2x4")

# Tests run in several processes; more threads than cores would wait for each other.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Exported:
    """A checkpoint and the bundle made from it; read only."""

    kind: Kind
    checkpoint: Path
    bundle: Path


ExportTiny = Callable[[Kind, tuple[str, ...], ExportOptions], Exported]


@pytest.fixture(scope="session")
def export_tiny(tmp_path_factory: pytest.TempPathFactory) -> ExportTiny:
    """Makes and exports a tiny checkpoint; the same arguments give the same bundle."""
    made: dict[object, Exported] = {}

    def make(kind: Kind, scales: tuple[str, ...], options: ExportOptions) -> Exported:
        key = (kind, scales, options)
        if key not in made:
            root = tmp_path_factory.mktemp(kind)
            checkpoint, bundle = root / "tiny", root / "bundle"
            make_checkpoint(kind, checkpoint, seed=0)
            export(open_checkpoint(checkpoint), bundle, scales=scales, options=options)
            made[key] = Exported(kind, checkpoint, bundle)
        return made[key]

    return make


@pytest.fixture(scope="session", params=KINDS)
def exported(request: pytest.FixtureRequest, export_tiny: ExportTiny) -> Exported:
    """SD 1.5-, SD 2.1-v- and SDXL-shaped, with targets at 2x, 3x and 2x4."""
    return export_tiny(request.param, SCALES, ExportOptions())


@pytest.fixture(scope="session")
def tiny(export_tiny: ExportTiny) -> Exported:
    """SD 1.5-shaped, with a target at 2x."""
    return export_tiny("sd15", ("2",), ExportOptions())


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: Exported) -> Path:
    """The checkpoint of :func:`tiny`."""
    return tiny.checkpoint


@pytest.fixture(scope="session")
def tiny_bundle(tiny: Exported) -> Path:
    """The bundle of :func:`tiny`."""
    return tiny.bundle
