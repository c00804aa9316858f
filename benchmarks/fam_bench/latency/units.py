"""Units of the benchmark: one thing that one contestant does, and what its process is told."""

from __future__ import annotations

from dataclasses import dataclass

from fam_bench.latency.contestants import BY_NAME, PICTURE_KINDS, Device, Kind

TITLES: dict[Kind, str] = {
    "native": "native step",
    "native_plain": "native step without taps",
    "target": "target step",
    "target_at_zero": "target step, FM and AM at 0",
    "without_am": "target step without AM",
    "plain": "target step without FM and AM",
    "picture": "picture",
    "direct": "picture by direct inference",
}


@dataclass(frozen=True)
class Unit:
    """One thing that one contestant does, in a process of its own.

    Attributes:
        contestant: its name.
        kind: what.
        scale: of the target; 1 for what is at the native size.
    """

    contestant: str
    kind: Kind
    scale: float

    @property
    def title(self) -> str:
        """``"target step at 2x, TensorRT"``."""
        return f"{TITLES[self.kind]} at {self.scale:g}x, {BY_NAME[self.contestant].title}"

    @property
    def slug(self) -> str:
        """For file names."""
        return f"{self.contestant}-{self.kind}-{self.scale:g}"

    @property
    def is_picture(self) -> bool:
        """Whether it is a whole picture."""
        return self.kind in PICTURE_KINDS


@dataclass(frozen=True)
class WorkerJob:
    """What a worker is told when it starts.

    Attributes:
        contestant, kind, scale: the unit.
        device: where PyTorch computes.
        bundle: folder of the bundle.
        ablated: folder of its graphs without FM, AM or taps, if they could be made.
        model: the checkpoint, if PyTorch is to run.
        cache: folder of the engine cache.
        results: file for what the first run computes.
        steps: of a picture's stages.
        threads: on the CPU; None: one per core.
        slowed: how many times as long its graphs are made to take.
    """

    contestant: str
    kind: Kind
    scale: float
    device: Device
    bundle: str
    ablated: str
    model: str
    cache: str
    results: str
    steps: int
    threads: int | None
    slowed: float = 1.0
