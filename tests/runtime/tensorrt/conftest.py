"""Engines are built for real, by TensorRT for RTX, which needs no GPU for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.cache import EngineCache
from fam_runtime.backends.tensorrt.engines import Engines
from fam_runtime.backends.tensorrt.library import TensorrtLibrary, import_library
from fam_runtime.backends.tensorrt.progress import EngineProgress
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.bundle import Bundle
from tests.runtime.fake_bundle import write_bundle


class RecordedProgress(EngineProgress):
    """What was said."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.finished: list[bool] = []
        self.reasons: list[str] = []
        self.taken: list[str] = []
        self.shares: list[float] = []

    def begin(self, title: str, reason: str, expected_seconds: float) -> None:
        assert expected_seconds > 0
        self.built.append(title)
        self.reasons.append(reason)
        self.shares.append(0.0)

    def update(self, phase: str, share: float | None) -> None:
        assert phase
        self.shares.append(share or 0.0)

    def end(self, *, built: bool) -> None:
        self.finished.append(built)
        assert self.shares == sorted(self.shares), "the share never falls"
        self.shares.clear()

    def reused(self, title: str) -> None:
        self.taken.append(title)

    def waiting(self, title: str) -> None:
        self.reasons.append(f"waiting for {title}")


@pytest.fixture(scope="session")
def rtx() -> TensorrtLibrary:
    """TensorRT for RTX; the development environment has it."""
    return import_library("tensorrt-rtx")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Hand-made graphs, whose engines take a tenth of a second."""
    return Bundle.open(write_bundle(tmp_path / "bundle"))


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture
def engines(rtx: TensorrtLibrary, tmp_path: Path, progress: RecordedProgress) -> Engines:
    cache = EngineCache(tmp_path / "cache")
    return Engines(rtx, Gpu("sm89"), BuildSettings(), cache, progress)
