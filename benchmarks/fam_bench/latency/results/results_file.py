"""Reading a results file of fam-bench: what is no whole result is refused, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fam_runtime.errors import InvalidRequest

RESULTS_FORMAT = 1
"""Version of the results file; it grows when a field changes its meaning or goes."""

MADE_BY = "fam-bench"

_FIX = "name a results.json that fam-bench wrote, whole and unedited"


@dataclass(frozen=True)
class _Shape:
    """What a field must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]

    def or_null(self) -> _Shape:
        """The same, and nothing."""
        return _Shape(f"{self.words}, or null", lambda value: value is None or self.holds(value))


def _is_number(value: Any) -> bool:
    # A number of thousands of digits is an integer to Python and too large for any float.
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) < 1e300


_TEXT = _Shape("text", lambda value: isinstance(value, str))
_OBJECT = _Shape("an object", lambda value: isinstance(value, dict))
_LIST = _Shape("a list", lambda value: isinstance(value, list))
_NUMBER = _Shape("a number", _is_number)
_ABOVE_ZERO = _Shape("a number above 0", lambda value: _is_number(value) and value > 0)
_NOT_NEGATIVE = _Shape("a number of at least 0", lambda value: _is_number(value) and value >= 0)
_NUMBERS = _Shape(
    "numbers of at least 0 by name",
    lambda value: isinstance(value, dict) and all(map(_NOT_NEGATIVE.holds, value.values())),
)
_FIDELITY = _Shape(
    "an object with against and psnr_db",
    lambda value: (
        isinstance(value, dict)
        and _TEXT.holds(value.get("against"))
        and _NUMBER.holds(value.get("psnr_db"))
    ),
)

_DOCUMENT = {
    "when": _TEXT,
    "machine": _OBJECT,
    "gpu": _OBJECT.or_null(),
    "bundle": _OBJECT,
    "settings": _OBJECT,
    "figures": _LIST,
    "parts": _LIST,
    "not_run": _LIST,
}
_UNIT = {"contestant": _TEXT, "kind": _TEXT, "scale": _ABOVE_ZERO}
_LISTS: Mapping[str, Mapping[str, _Shape]] = {
    "figures": _UNIT
    | {
        "title": _TEXT,
        "pixels": _NOT_NEGATIVE.or_null(),
        "round_seconds": _LIST,
        "median_seconds": _ABOVE_ZERO,
        "spread": _NOT_NEGATIVE.or_null(),
        "median_device_seconds": _NOT_NEGATIVE.or_null(),
        "stage_seconds": _NUMBERS,
        "ratio_to_eager": _ABOVE_ZERO.or_null(),
        "peak_host_bytes": _NOT_NEGATIVE.or_null(),
        "peak_device_bytes": _NOT_NEGATIVE.or_null(),
        "fidelity": _FIDELITY.or_null(),
    },
    "parts": {"contestant": _TEXT, "scale": _ABOVE_ZERO, "part": _TEXT, "seconds": _NUMBER},
    "not_run": _UNIT | {"reason": _TEXT},
}
"""Fields that readers use; what may be null may be missing, and others are let through."""


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file.

    Raises:
        InvalidRequest: it cannot be read, or it is no result of fam-bench.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise _refused(f"{path} cannot be read", error.strerror or str(error), "a file") from None
    except (ValueError, RecursionError) as error:
        got = "too deep nesting" if isinstance(error, RecursionError) else str(error)
        raise _refused(f"{path} is no result of fam-bench", got, "JSON") from None
    return checked_results(document, what=str(path))


def checked_results(document: object, *, what: str) -> dict[str, Any]:
    """`document` itself, once it has what every reader of results relies on.

    Args:
        document: parsed JSON.
        what: names it in messages.

    Raises:
        InvalidRequest: it is no result of fam-bench, in another format, or damaged.
    """
    made_by = document.get("made_by") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not str(made_by).startswith(MADE_BY):
        got = f"made by {made_by!r}" if made_by else type(document).__name__
        raise _refused(f"{what} is no result of fam-bench", got, f"made by {MADE_BY!r}")
    found = document.get("format")
    if type(found) is not int or found != RESULTS_FORMAT:
        raise InvalidRequest(
            f"{what} has another format of results",
            got=found,
            expected=f"format {RESULTS_FORMAT}",
            fix="read it with the fam-bench that made it, or measure again",
        )
    _check_fields(document, _DOCUMENT, f"{what}: ")
    for name, fields in _LISTS.items():
        for index, row in enumerate(document[name]):
            place = f"{what}: {name}[{index}]"
            if not isinstance(row, dict):
                raise _refused(place, row, "an object")
            _check_fields(row, fields, f"{place}.")
    _check_unique(document["figures"], what)
    return document


def _check_fields(found: Mapping[str, Any], fields: Mapping[str, _Shape], place: str) -> None:
    for name, shape in fields.items():
        value = found.get(name)
        if not shape.holds(value):
            got = value if name in found else "nothing"
            raise _refused(f"{place}{name}", got, shape.words)


def _check_unique(figures: list[dict[str, Any]], what: str) -> None:
    seen = set()
    for row in figures:
        key = (row["contestant"], row["kind"], row["scale"])
        if key in seen:
            raise _refused(f"{what}: figures", f"{key} twice", "every unit once")
        seen.add(key)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number in JSON")


def _refused(what: str, got: object, expected: str) -> InvalidRequest:
    return InvalidRequest(what, got=got, expected=expected, fix=_FIX)
