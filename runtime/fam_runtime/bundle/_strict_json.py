"""JSON read strictly: no duplicate keys, no NaN, bounded size and nesting, valid UTF-8."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from fam_runtime.errors import BundleDamaged

MAX_JSON_BYTES = 16 * 1024 * 1024
"""A manifest of a large bundle is some 200 KB; more than this is an attack on the memory."""

MAX_JSON_DEPTH = 16
"""The format nests 6 deep; the rest is room for the free-form figures of `check`."""

MAX_JSON_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader holds exactly (RFC 8259, section 6)."""


def parse_object(data: bytes, *, what: str) -> dict[str, Any]:
    """The JSON object in `data`; `what` names the file in messages.

    Raises:
        BundleDamaged: when it is anything else than one strict JSON object.
    """
    if len(data) > MAX_JSON_BYTES:
        raise _damaged(what, got=f"{len(data)} bytes", expected=f"at most {MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=lambda pairs: _object_without_duplicates(pairs, what),
            parse_constant=lambda name: _refuse_constant(name, what),
            parse_float=lambda text: _finite_float(text, what),
            parse_int=lambda text: _bounded_int(text, what),
        )
    except UnicodeDecodeError as error:
        raise _damaged(what, got=f"byte {error.start} is not UTF-8", expected="UTF-8") from None
    except RecursionError:
        raise _too_deep(what) from None
    except json.JSONDecodeError as error:
        raise _damaged(
            what, got=f"a syntax error at line {_line(error)}", expected="one JSON object"
        ) from None
    if not isinstance(value, dict):
        raise _damaged(what, got=type(value).__name__, expected="a JSON object")
    _check_depth_and_text(value, what)
    return value


def canonical_bytes(value: Mapping[str, Any]) -> bytes:
    """The one way this format writes `value`: UTF-8, sorted keys, indent 2, final newline.

    Raises:
        TypeError, ValueError: for what JSON cannot hold (NaN among it).
    """
    text = json.dumps(
        value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False, default=_scalar
    )
    return (text + "\n").encode("utf-8")


def _scalar(value: object) -> object:
    """A NumPy scalar as the Python number it holds."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} is not JSON")
    return item()


def _line(error: json.JSONDecodeError) -> int:
    """The line of the first character that may not stand where it is, counted from 1.

    Where a bracket closes behind a comma, Python 3.13 points at the comma, older ones at the
    bracket; this is the bracket's line.
    """
    position = error.pos
    if error.msg.startswith("Illegal trailing comma"):
        position = len(error.doc) - len(error.doc[position + 1 :].lstrip(" \t\n\r"))
    return error.doc.count("\n", 0, position) + 1


def _object_without_duplicates(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _damaged(what, got=f"the key {key!r} twice", expected="every key once")
            seen.add(key)
    return members


def _refuse_constant(name: str, what: str) -> NoReturn:
    raise _damaged(what, got=name, expected="finite numbers")


def _finite_float(text: str, what: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _damaged(what, got=text, expected="finite numbers")
    return value


def _bounded_int(text: str, what: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_JSON_INTEGER:
        raise _damaged(what, got=text, expected=f"integers of at most {MAX_JSON_INTEGER}")
    return int(text)


def _check_depth_and_text(root: object, what: str) -> None:
    """Refuse nesting below MAX_JSON_DEPTH and lone surrogates, which are no text."""
    pending: list[tuple[object, int]] = [(root, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, str):
            _check_text(value, what)
        elif isinstance(value, (dict, list)):
            if depth > MAX_JSON_DEPTH:
                raise _too_deep(what)
            if isinstance(value, dict):
                pending.extend((key, depth) for key in value)
            children = value.values() if isinstance(value, dict) else value
            pending.extend((child, depth + 1) for child in children)


def _check_text(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _damaged(what, got=text, expected="text without lone surrogates") from None


def _too_deep(what: str) -> BundleDamaged:
    return _damaged(what, got="deeper nesting", expected=f"at most {MAX_JSON_DEPTH} levels")


def _damaged(what: str, *, got: object, expected: str) -> BundleDamaged:
    return BundleDamaged(
        f"{what} cannot be read", got=got, expected=expected, fix="get the bundle again"
    )
