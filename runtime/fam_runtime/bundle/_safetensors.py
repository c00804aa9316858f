"""The tables of a safetensors file from an untrusted source: read strictly, never partly.

A file is the length of its header (8 bytes, little-endian), the header, and the tables' bytes. The
header is a JSON object of ``{"dtype", "shape", "data_offsets": [begin, end]}`` by name, and perhaps
``"__metadata__"``, an object of texts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fam_runtime.bundle._strict_json import parse_object
from fam_runtime.errors import BundleDamaged

MAX_DIMENSIONS = 8
"""A kernel table has 2; more would only cost time."""

FLOAT32 = "F32"

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_MEMBERS = frozenset({"dtype", "shape", "data_offsets"})


class StoredTable(NamedTuple):
    """A table as it lies in the file: `data` has 4 bytes per element where `dtype` is F32."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def tables_of_safetensors(data: bytes, *, name: str) -> dict[str, StoredTable]:
    """The tables in `data`, the bytes of a whole file; `name` is the file's name in messages.

    Raises:
        BundleDamaged: if the header is malformed, or its tables overlap, leave a hole or do not
            end where the file does.
    """
    header, body = _split(memoryview(data), name)
    document = parse_object(bytes(header), what=f"the header of {name}")
    entries = {key: entry for key, entry in document.items() if key != _METADATA}
    _check_metadata(document.get(_METADATA, {}), name)
    for key, entry in entries.items():
        if not _is_table(entry):
            raise _damaged(name, got=key, expected="a table with dtype, shape and data_offsets")
    _check_offsets(entries, len(body), name)
    return {
        key: StoredTable(entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for key, entry in entries.items()
    }


def _split(data: memoryview, name: str) -> tuple[memoryview, memoryview]:
    """The header, and what follows it."""
    if len(data) < _LENGTH_BYTES:
        expected = f"at least {_LENGTH_BYTES} bytes"
        raise _damaged(name, got=f"{len(data)} bytes", expected=expected)
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    rest = data[_LENGTH_BYTES:]
    if length > len(rest):
        expected = f"at most {len(rest)} bytes"
        raise _damaged(name, got=f"a header of {length} bytes", expected=expected)
    return rest[:length], rest[length:]


def _check_metadata(metadata: object, name: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(name, got=_METADATA, expected="an object of texts")


def _is_table(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.keys() != _MEMBERS:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or not (_are_counts(shape) and _are_counts(offsets)):
        return False
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2 or offsets[0] > offsets[1]:
        return False
    size = offsets[1] - offsets[0]
    return entry["dtype"] != FLOAT32 or bool(size == 4 * math.prod(shape))


def _are_counts(values: object) -> bool:
    """Whether `values` is a list of integers from 0 (and no flags, which Python counts as such)."""
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_offsets(entries: dict[str, Any], size: int, name: str) -> None:
    """Refuse tables that do not follow each other from the first of `size` bytes to the last."""
    position = 0
    for begin, end, key in sorted((*entry["data_offsets"], key) for key, entry in entries.items()):
        if begin != position:
            expected = f"{key!r} at byte {position}"
            raise _damaged(name, got=f"{key!r} at byte {begin}", expected=expected)
        position = end
    if position != size:
        expected = f"{position} bytes of tables"
        raise _damaged(name, got=f"{size} bytes of tables", expected=expected)


def _damaged(name: str, *, got: str, expected: str) -> BundleDamaged:
    return BundleDamaged(
        f"{name} of the bundle is not a safetensors file",
        got=got,
        expected=expected,
        fix="get the bundle again or export it again with fam-export",
    )
