"""What building an engine takes: time, memory of the host, disk. Checked before it begins."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fam_runtime.errors import BackendError, StorageError
from fam_runtime.free_memory import free_memory_bytes

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle

# Measured with TensorRT for RTX 1.7 on two cores (docs/performance.md): SDXL's step graphs and
# those of the demo. TensorRT's own builder was not at hand; it also times kernels on the GPU.
BUILD_BASE_BYTES = 400 << 20
"""The demo's graphs took 242 MB."""
BUILD_BYTES_PER_WEIGHT_BYTE = 2.3
"""SDXL: 2.27 allocated; the mapped weights come on top, and the system can take them back."""
BUILD_BASE_SECONDS = 2.0
BUILD_SECONDS_PER_WEIGHT_GB = 16.0
"""SDXL: 13 to 18, and 2 to 4 for writing."""
PLAN_BYTES_PER_WEIGHT_BYTE = 1.02
"""SDXL: 1.009."""
STRIPPED_PLAN_BYTES = 64 << 20
"""Not measured; no machine at hand could build one."""


@dataclass(frozen=True)
class BuildCost:
    """An estimate.

    Attributes:
        seconds: of building.
        memory_bytes: of the host, at the peak.
        plan_bytes: on the disk.
    """

    seconds: float
    memory_bytes: int
    plan_bytes: int


def build_cost(bundle: Bundle, graph: str, *, strip_weights: bool = False) -> BuildCost:
    """What an engine of `graph`, a file of `bundle`, is expected to take."""
    size = weights_bytes(bundle, graph)
    return BuildCost(
        BUILD_BASE_SECONDS + BUILD_SECONDS_PER_WEIGHT_GB * size / 1e9,
        BUILD_BASE_BYTES + int(BUILD_BYTES_PER_WEIGHT_BYTE * size),
        STRIPPED_PLAN_BYTES if strip_weights else int(PLAN_BYTES_PER_WEIGHT_BYTE * size),
    )


def weights_bytes(bundle: Bundle, graph: str) -> int:
    """Bytes of a graph with the weights beside it."""
    return bundle.manifest.files[graph].bytes + sum(bundle.external_bytes(graph).values())


def check_build_resources(graph: str, cost: BuildCost, folder: Path) -> None:
    """Check memory and disk for one build.

    Args:
        graph: for messages.
        cost: what it is expected to take.
        folder: where the plan will be written; it or a parent exists.

    Raises:
        BackendError: there is too little memory.
        StorageError: there is too little disk.
    """
    free = free_memory_bytes()
    if free is not None and free < cost.memory_bytes:
        raise BackendError(
            f"too little memory to build the engine of {graph}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"about {cost.memory_bytes / 1e9:.1f} GB",
            fix="stop other programs, build on another machine with the same kind of GPU, or try "
            "all the same with --no-preflight",
        )
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    room = shutil.disk_usage(existing).free
    if room < cost.plan_bytes:
        raise StorageError(
            f"too little disk for the engine of {graph} in {folder}",
            got=f"{room / 1e9:.1f} GB free",
            expected=f"about {cost.plan_bytes / 1e9:.1f} GB",
            fix="free some space, or give another folder by --cache-dir",
        )
