"""Bundles, exported once for all tests that read them: the demo's, and of tiny checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fam_export.checkpoint import open_checkpoint
from fam_export.cli import main as fam_export
from fam_export.exporter import export
from fam_export.options import ExportOptions
from tests.checkpoints import KINDS, Kind, make_checkpoint
from tests.made_once import made_once

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

    def make(kind: Kind, scales: tuple[str, ...], options: ExportOptions) -> Exported:
        def fill(root: Path) -> None:
            checkpoint, bundle = root / "tiny", root / "bundle"
            make_checkpoint(kind, checkpoint, seed=0)
            export(open_checkpoint(checkpoint), bundle, scales=scales, options=options)

        chosen = hashlib.sha256(repr(options).encode()).hexdigest()[:8]
        root = made_once(tmp_path_factory, "-".join((kind, *scales, chosen)), fill)
        return Exported(kind, root / "tiny", root / "bundle")

    return make


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint's bundle, with a target at 2x."""

    def fill(root: Path) -> None:
        assert fam_export(["--scale", "2", "--output", str(root / "demo"), "--quiet"]) == 0

    return made_once(tmp_path_factory, "demo-2", fill) / "demo"


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
