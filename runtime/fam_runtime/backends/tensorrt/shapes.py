"""The shapes an engine is built for: a range for every symbol of the manifest's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fam_runtime.backends.checks import shape_from_symbols

if TYPE_CHECKING:
    from fam_runtime.bundle import TensorSpec

BATCH = "B"


class SymbolRange(NamedTuple):
    """Sizes that a symbol such as ``B`` or ``h`` may have, and the one to be fastest at."""

    minimum: int
    optimum: int
    maximum: int


SymbolRanges = Mapping[str, SymbolRange]


class InputShapes(NamedTuple):
    """Shapes of one input; all three are equal for a static one."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]

    @property
    def static(self) -> bool:
        """Whether there is only one."""
        return self.minimum == self.maximum


def exactly(sizes: Mapping[str, int]) -> dict[str, SymbolRange]:
    """Ranges of one size each."""
    return {symbol: SymbolRange(size, size, size) for symbol, size in sizes.items()}


def input_shapes(inputs: Sequence[TensorSpec], ranges: SymbolRanges) -> dict[str, InputShapes]:
    """Shapes of every input, by name.

    Raises:
        BackendError: a symbol has no range.
    """

    def at(bound: int) -> dict[str, int]:
        return {symbol: size[bound] for symbol, size in ranges.items()}

    return {
        spec.name: InputShapes(*(shape_from_symbols(spec.shape, at(bound)) for bound in range(3)))
        for spec in inputs
    }


def ranges_contain(ranges: SymbolRanges, sizes: Mapping[str, int]) -> bool:
    """Whether an engine for `ranges` runs at `sizes`."""
    return all(
        ranges[symbol].minimum <= size <= ranges[symbol].maximum for symbol, size in sizes.items()
    )


def describe_ranges(ranges: SymbolRanges) -> str:
    """``B = 1; h = 64; w = 64``, or ``B = 1 to 4 (best at 2)`` for a range."""
    parts = []
    for symbol, (low, best, high) in sorted(ranges.items()):
        span = f"{low}" if low == high else f"{low} to {high} (best at {best})"
        parts.append(f"{symbol} = {span}")
    return "; ".join(parts)
