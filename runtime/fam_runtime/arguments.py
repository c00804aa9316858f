"""Numbers and names of a call, checked: a value of a wrong type is an InvalidRequest, too."""

from __future__ import annotations

import numbers
import operator

from fam_runtime.errors import InvalidRequest


def whole_number(what: str, value: object, *, minimum: int = 1) -> int:
    """`value` as an int.

    Raises:
        InvalidRequest: it is no whole number, or below `minimum`.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # its refusal is what we ask for
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool):
        number = minimum - 1
    if number < minimum:
        raise InvalidRequest(
            f"{what} is out of range",
            got=value,
            expected=f"a whole number of at least {minimum}",
            fix="leave it out for the default",
        )
    return number


def real_number(what: str, value: object, low: float, high: float) -> float:
    """`value` as a float from `low` to `high`, which NaN is not.

    Raises:
        InvalidRequest: it is no number, or out of range.
    """
    number = float("nan")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
    if not low <= number <= high:
        raise InvalidRequest(
            f"{what} is out of range",
            got=value,
            expected=f"a number from {low:g} to {high:g}",
            fix="leave it out for the default",
        )
    return number


def text_of(what: str, value: object) -> str:
    """`value`, which must be a str.

    Raises:
        InvalidRequest: it is not.
    """
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{what} is not a text",
            got=value,
            expected="a str",
            fix="leave it out for the default",
        )
    return value
