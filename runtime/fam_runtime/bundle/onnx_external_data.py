"""Where an ONNX file says its external data lies, read without any ONNX library.

An inference library opens these locations by itself, so they are checked before it sees the file.
The protobuf wire format is walked just as far as needed; tensors' contents are skipped by length.
"""

from __future__ import annotations

from collections.abc import Iterator

from fam_runtime.errors import BundleDamaged

# Field numbers of onnx.proto on the way from a model to its tensors.
_MODEL = {7: "graph", 20: "training", 25: "function"}
_TRAINING = {1: "graph", 2: "graph"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_NODE = {5: "attribute"}
_ATTRIBUTE = {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE = {1: "tensor", 2: "tensor"}
_FUNCTION = {7: "node", 11: "attribute"}
_TENSOR = {13: "entry"}
_CHILDREN = {
    "model": _MODEL,
    "training": _TRAINING,
    "graph": _GRAPH,
    "node": _NODE,
    "attribute": _ATTRIBUTE,
    "sparse": _SPARSE,
    "function": _FUNCTION,
    "tensor": _TENSOR,
}
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 64


def external_locations(data: bytes | memoryview) -> set[str]:
    """Every external-data location in an ONNX model.

    Raises:
        BundleDamaged: `data` is not a well-formed protobuf message.
    """
    return set(_locations(memoryview(data), "model", 0))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise _malformed("graphs nested too deeply")
    children = _CHILDREN[kind]
    for field, payload in _fields(message):
        child = children.get(field)
        if child is None:
            continue
        if child == "entry":
            entry = dict(_fields(payload))
            if bytes(entry.get(_ENTRY_KEY, b"")) == b"location":
                yield bytes(entry.get(_ENTRY_VALUE, b"")).decode("utf-8", "replace")
        else:
            yield from _locations(payload, child, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Length-delimited fields of a message; the others are skipped."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        wire = key & 7
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _LENGTH:
            length, position = _varint(message, position)
            if length > end - position:
                raise _malformed("a length beyond the end of the file")
            yield key >> 3, message[position : position + length]
            position += length
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
            if position > end:
                raise _malformed("a number beyond the end of the file")
        else:
            raise _malformed(f"wire type {wire}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if position >= len(message):
            raise _malformed("a number beyond the end of the file")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position
    raise _malformed("a number that does not end")


def _malformed(what: str) -> BundleDamaged:
    return BundleDamaged(
        "a graph of the bundle is no ONNX model",
        got=what,
        expected="a protobuf message",
        fix="get the bundle again or export it again with fam-export",
    )
