"""Checks of a graph's feeds and outputs: names, dtypes, and shapes with symbols."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fam_runtime.errors import BackendError, BundleDamaged

if TYPE_CHECKING:
    from fam_runtime.backends.base import Value, Values
    from fam_runtime.bundle import TensorSpec

Dimension = int | str

_SYMBOL = re.compile(r"([1-9][0-9]*)?([A-Za-z]+)")


def check_feeds(graph: str, inputs: Sequence[TensorSpec], feeds: Values) -> None:
    """Check every feed of `graph`.

    Raises:
        BackendError: a feed is missing or unknown, or its dtype or shape does not fit.
    """
    expected = [spec.name for spec in inputs]
    missing = [name for name in expected if name not in feeds]
    unknown = [name for name in feeds if name not in expected]
    if missing or unknown:
        raise BackendError(
            f"{graph}: wrong inputs",
            got=f"missing {missing}, unknown {unknown}",
            expected=", ".join(expected),
            fix="feed every input of the graph by its name",
        )
    bound: dict[str, int] = {}
    for spec in inputs:
        value = feeds[spec.name]
        if value.dtype != spec.dtype:
            raise BackendError(
                f"{graph}: input {spec.name} has the wrong dtype",
                got=str(value.dtype),
                expected=spec.dtype,
                fix="convert the value",
            )
        if not bind_shape(spec.shape, value.shape, bound):
            raise BackendError(
                f"{graph}: input {spec.name} has the wrong shape",
                got=tuple(value.shape),
                expected=describe_shape(spec.shape, bound),
                fix="feed values of the size that the graph was exported for",
            )


def check_output_names(graph: str, wanted: Sequence[str], available: Sequence[str]) -> None:
    """Check that every wanted output exists.

    Raises:
        BackendError: one does not.
    """
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise BackendError(
            f"{graph}: unknown outputs",
            got=unknown,
            expected=", ".join(available),
            fix="ask for outputs that the manifest lists",
        )


def check_output(
    graph: str,
    name: str,
    value: Value,
    shape: Sequence[Dimension],
    bound: dict[str, int] | None = None,
) -> None:
    """Check that an output is float32 and of the shape that the bundle's sizes ask for.

    The manifest's reader compares such shapes for the steps alone, and a graph may be of another
    size than it declares.

    Args:
        graph, name: whose output.
        value: the output.
        shape: what it must be.
        bound: sizes of the symbols in `shape`; those that are free are bound to the sizes seen.

    Raises:
        BundleDamaged: it is something else.
    """
    sizes = {} if bound is None else bound
    if value.dtype != "float32" or not bind_shape(shape, value.shape, sizes):
        raise BundleDamaged(
            f"{graph}: output {name} does not fit the bundle's sizes",
            got=f"{value.dtype} {tuple(value.shape)}",
            expected=f"float32 {describe_shape(shape, {})}",
            fix="export the bundle again",
        )


def bind_shape(expected: Sequence[Dimension], shape: Sequence[int], bound: dict[str, int]) -> bool:
    """Whether `shape` fits; symbols that are still free are bound to the sizes seen.

    A symbol such as ``2B`` binds ``B`` to half of the size and does not fit an odd one.
    """
    if len(expected) != len(shape):
        return False
    return all(
        _bind_dimension(dimension, size, bound)
        for dimension, size in zip(expected, shape, strict=True)
    )


def _bind_dimension(dimension: Dimension, size: int, bound: dict[str, int]) -> bool:
    if isinstance(dimension, int):
        return dimension == size
    factor, symbol = split_symbol(dimension)
    if size % factor or size <= 0:
        return False
    return bound.setdefault(symbol, size // factor) == size // factor


def split_symbol(dimension: str) -> tuple[int, str]:
    """``"2B"`` as ``(2, "B")``.

    Raises:
        BackendError: `dimension` is no optional factor followed by letters.
    """
    match = _SYMBOL.fullmatch(dimension)
    if match is None:
        raise BackendError(
            "a dimension of the manifest cannot be read",
            got=dimension,
            expected="an integer or a symbol such as B, 2B, h or 8h",
            fix="export the bundle again",
        )
    return int(match[1] or 1), match[2]


def shape_from_symbols(expected: Sequence[Dimension], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that `expected` means for the symbols' `sizes`.

    Raises:
        BackendError: a symbol has no size.
    """
    shape: list[int] = []
    for dimension in expected:
        factor, symbol = (dimension, "") if isinstance(dimension, int) else split_symbol(dimension)
        if symbol and symbol not in sizes:
            raise BackendError(
                "a symbol of the manifest has no size",
                got=dimension,
                expected=f"one of {', '.join(sorted(sizes))}",
                fix="export the bundle again",
            )
        shape.append(factor * (sizes[symbol] if symbol else 1))
    return tuple(shape)


def describe_shape(expected: Sequence[Dimension], bound: Mapping[str, int]) -> str:
    """The shape as the manifest writes it, with the values of its symbols."""
    text = f"[{', '.join(map(str, expected))}]"
    known = [f"{symbol} = {size}" for symbol, size in sorted(bound.items())]
    return f"{text} with {', '.join(known)}" if known else text
