"""What a user may choose about an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fam_runtime.errors import InvalidRequest

if TYPE_CHECKING:
    from fam_runtime.bundle.manifest_parts import ModelDtype

MIN_WORKSPACE_BYTES = 16 << 20
OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BatchRange:
    """How many pictures an engine takes at once; equal bounds make its shapes static.

    Raises:
        InvalidRequest: it is no range.
    """

    minimum: int = 1
    optimum: int = 1
    maximum: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise InvalidRequest(
                "the range of batches is none",
                got=f"{self.minimum}:{self.optimum}:{self.maximum}",
                expected="1 <= minimum <= optimum <= maximum",
                fix="--batch 1:1:4, for one to four pictures, best at one",
            )

    def __str__(self) -> str:
        """As the command line takes it."""
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    def __contains__(self, batch: object) -> bool:
        return isinstance(batch, int) and self.minimum <= batch <= self.maximum


def batch_range_from_text(text: str) -> BatchRange:
    """``4``, ``1:4`` (best at the largest) or ``1:2:4``.

    Raises:
        InvalidRequest: it is none of these.
    """
    try:
        numbers = [int(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) == 2:
        numbers = [numbers[0], numbers[1], numbers[1]]
    if len(numbers) != 3:
        raise InvalidRequest(
            "the range of batches cannot be read",
            got=text,
            expected="pictures per batch: N, MIN:MAX or MIN:BEST:MAX",
            fix="--batch 1:1:4, for one to four pictures, best at one",
        )
    return BatchRange(*numbers)


@dataclass(frozen=True)
class BuildSettings:
    """How engines are built.

    Attributes:
        batch: see :class:`BatchRange`.
        tf32: let float32 products round their factors to 10 bits of mantissa, on tensor cores.
            None: in bundles in half precision, whose few float32 parts (the VAE) lose nothing that
            the rest has; in fp32 bundles float32 means float32.
        workspace_bytes: scratch memory on the GPU that a kernel may take; None: no cap.
        optimization_level: of TensorRT, 0 to 5; None: its own default (3).
        strip_weights: leave the weights out of the plan, and refit it from the bundle's file
            whenever it is loaded: targets then share one set of weights on the disk.

    Raises:
        InvalidRequest: a value cannot be.
    """

    batch: BatchRange = BatchRange()
    tf32: bool | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    strip_weights: bool = False

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < MIN_WORKSPACE_BYTES:
            raise InvalidRequest(
                "the workspace is too small",
                got=self.workspace_bytes,
                expected=f"at least {MIN_WORKSPACE_BYTES} bytes",
                fix="--workspace 2G is usual, or leave it out",
            )
        level = self.optimization_level
        if level is not None and level not in OPTIMIZATION_LEVELS:
            raise InvalidRequest(
                "unknown optimization level",
                got=level,
                expected=f"{OPTIMIZATION_LEVELS[0]} to {OPTIMIZATION_LEVELS[-1]}",
                fix="leave it out",
            )

    def uses_tf32(self, dtype: ModelDtype) -> bool:
        """Whether engines of a bundle in `dtype` may use TF32."""
        return dtype != "fp32" if self.tf32 is None else self.tf32
