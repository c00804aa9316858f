"""How much memory and disk a full-size export may take, by the weights of its UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_MEMORY_RATIO = 1.3
"""Peak resident memory of the exporting process over the UNet's weights."""

MAX_GRAPH_RATIO = 1.02
"""All files of the UNet's graphs, native and target, over its weights: they are there once."""

DTYPE_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class ExportFigures:
    """What is held against the limits, in bytes.

    Attributes:
        weights: of the UNet in the checkpoint, at the dtype of the export.
        peak: resident memory of the exporting process.
        graphs: everything in the bundle's ``unet`` folder.
        bundle: the whole bundle.
    """

    weights: int
    peak: int
    graphs: int
    bundle: int

    @property
    def memory_ratio(self) -> float:
        """Peak over weights."""
        return self.peak / self.weights

    @property
    def graph_ratio(self) -> float:
        """Graphs over weights."""
        return self.graphs / self.weights

    def broken_limits(self) -> list[str]:
        """A sentence per limit that does not hold."""
        broken = []
        # `not <=` rather than `>`: NaN must fail.
        if not self.memory_ratio <= MAX_MEMORY_RATIO:
            broken.append(
                f"peak memory is {self.memory_ratio:.3f} times the UNet's weights, "
                f"allowed {MAX_MEMORY_RATIO}"
            )
        if not self.graph_ratio <= MAX_GRAPH_RATIO:
            broken.append(
                f"the UNet's graphs take {self.graph_ratio:.3f} times its weights, "
                f"allowed {MAX_GRAPH_RATIO}"
            )
        return broken
