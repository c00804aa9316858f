"""What the GPU check measures: contestants, and units of work that each of them does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fam_runtime.backends.registry import ENGINE_BACKENDS

Device = Literal["cpu", "cuda"]
Kind = Literal["native", "plain", "target", "picture"]
STEP_KINDS: tuple[Kind, ...] = ("target", "plain", "native")
"""Steps, in the order in which they are loaded: what is compared lies side by side."""


@dataclass(frozen=True)
class Contestant:
    """Who computes.

    Attributes:
        name: as ``--contestants`` takes it.
        title: in tables.
        backend: of the runtime; empty for PyTorch.
        devices: where it runs.
    """

    name: str
    title: str
    backend: str
    devices: tuple[Device, ...]

    @property
    def reference(self) -> bool:
        """Whether it is what the others' results are compared with."""
        return self.name == REFERENCE

    @property
    def builds_engines(self) -> bool:
        """Whether it takes minutes, and memory, to build what it then loads from a cache."""
        return self.backend in ENGINE_BACKENDS


REFERENCE = "onnxruntime-cpu"
EAGER = "torch-eager"
COMPILED = "torch-compile"
CONTESTANTS: tuple[Contestant, ...] = (
    Contestant(REFERENCE, "ONNX Runtime, CPU", "onnxruntime", ("cpu", "cuda")),
    Contestant(EAGER, "PyTorch eager", "", ("cpu", "cuda")),
    Contestant(COMPILED, "torch.compile", "", ("cpu", "cuda")),
    Contestant("onnxruntime-cuda", "ONNX Runtime, CUDA", "onnxruntime", ("cuda",)),
    Contestant("tensorrt", "TensorRT", "tensorrt", ("cuda",)),
    Contestant("tensorrt-rtx", "TensorRT for RTX", "tensorrt-rtx", ("cuda",)),
)
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


@dataclass(frozen=True)
class Unit:
    """One thing that one contestant does, in a process of its own.

    Attributes:
        contestant: its name.
        kind: a step, or a whole picture.
        scale: of the target; 1 for the native step.
    """

    contestant: str
    kind: Kind
    scale: float

    @property
    def title(self) -> str:
        """``"target step at 2x, TensorRT"``."""
        what = "picture" if self.kind == "picture" else f"{self.kind} step"
        return f"{what} at {self.scale:g}x, {BY_NAME[self.contestant].title}"

    @property
    def slug(self) -> str:
        """For file names."""
        return f"{self.contestant}-{self.kind}-{self.scale:g}"


@dataclass(frozen=True)
class WorkerJob:
    """What a worker is told when it starts.

    Attributes:
        contestant, kind, scale: the unit.
        device: where PyTorch computes.
        bundle: folder of the bundle.
        plain: folder of its plain steps, if they could be made.
        model: the checkpoint, if PyTorch is to run.
        cache: folder of the engine cache.
        results: file for what the first run computes.
        steps: of a picture's stages.
        threads: on the CPU; None: one per core.
    """

    contestant: str
    kind: Kind
    scale: float
    device: Device
    bundle: str
    plain: str
    model: str
    cache: str
    results: str
    steps: int
    threads: int | None
