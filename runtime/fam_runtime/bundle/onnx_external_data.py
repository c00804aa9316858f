"""Where an ONNX file keeps tensors outside of itself, read without the onnx package.

A walker over the protobuf wire format: it enters the messages that can hold a tensor, skips
everything else by its length, and refuses what a careful writer never produces. Field numbers
are those of onnx.proto3; https://protobuf.dev/programming-guides/encoding describes the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fam_runtime.errors import BundleDamaged

MAX_FIELDS = 8_000_000
"""Fields looked at in one file: a UNet has some 200,000; more would only cost time."""

MAX_GRAPH_DEPTH = 32
"""Nesting of subgraphs; exported UNets nest 1 deep."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_TEXT_BYTES = 4096
_EXTERNAL = 1
_KNOWN_KEYS = frozenset({"location", "offset", "length", "checksum"})

# Which fields of a message lead towards tensors, and to which message.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_OP_TYPE = 4  # of a node
_TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


@dataclass(frozen=True)
class ExternalData:
    """A tensor outside its ONNX file; `length` is None where the file does not say it."""

    tensor: str
    location: str
    offset: int = 0
    length: int | None = None


class OnnxOutline(NamedTuple):
    """What a reader of bundles must know of a graph before a parser sees it."""

    external: tuple[ExternalData, ...]
    op_types: frozenset[str]


class _Field(NamedTuple):
    number: int
    wire: int
    value: int  # the number itself, or where the bytes begin
    end: int


def outline_of_onnx(data: memoryview | bytes, *, name: str) -> OnnxOutline:
    """External tensors and operator types of the ONNX model in `data`, subgraphs included.

    `name` is the file's name in messages.

    Raises:
        BundleDamaged: if `data` is not well-formed.
    """
    walker = _Walker(memoryview(data), name)
    walker.walk()
    return OnnxOutline(tuple(walker.external), frozenset(walker.op_types))


def external_locations(
    data: memoryview | bytes, *, name: str = "a graph of the bundle"
) -> set[str]:
    """Every external-data location in an ONNX model.

    Raises:
        BundleDamaged: if `data` is not well-formed.
    """
    return {tensor.location for tensor in outline_of_onnx(data, name=name).external}


class _Walker:
    def __init__(self, data: memoryview, name: str) -> None:
        self.data = data
        self.name = name
        self.fields_left = MAX_FIELDS
        self.external: list[ExternalData] = []
        self.op_types: set[str] = set()

    def walk(self) -> None:
        """Visit every message that can hold a tensor."""
        pending = [("model", 0, len(self.data), 0)]
        graphs = 0
        while pending:
            kind, begin, end, depth = pending.pop()
            if kind == "tensor":
                self._tensor(begin, end)
                continue
            if depth > MAX_GRAPH_DEPTH:
                raise self._malformed("subgraphs nest too deep", f"at most {MAX_GRAPH_DEPTH}")
            children = _CHILDREN[kind]
            for field in self._fields(begin, end):
                child = children.get(field.number)
                if child is not None:
                    self._expect(field, _BYTES)
                    graphs += kind == "model" and child == "graph"
                    deeper = depth + (kind == "attribute" and child == "graph")
                    pending.append((child, field.value, field.end, deeper))
                elif kind == "node" and field.number == _OP_TYPE:
                    self.op_types.add(self._text(field))
        if graphs != 1:
            raise self._malformed(f"it holds {graphs} graphs", "one ONNX model with one graph")

    def _tensor(self, begin: int, end: int) -> None:
        """Record the tensor if any of its fields speaks of external data."""
        name, is_external = "", False
        entries: dict[str, str] = {}
        for field in self._fields(begin, end):
            if field.number == _TENSOR_NAME:
                name = self._text(field)
            elif field.number == _DATA_LOCATION:
                self._expect(field, _VARINT)
                is_external = is_external or field.value == _EXTERNAL
            elif field.number == _EXTERNAL_DATA:
                self._expect(field, _BYTES)
                key, value = self._entry(field)
                if key in entries or key not in _KNOWN_KEYS:
                    raise self._malformed(f"external data key {key!r}", "each known key once")
                entries[key] = value
        if not entries and not is_external:
            return
        if "location" not in entries:
            raise self._malformed(f"the external tensor {name!r} has no location", "a location")
        length = entries.get("length")
        self.external.append(
            ExternalData(
                tensor=name,
                location=entries["location"],
                offset=self._decimal(entries.get("offset", "0")),
                length=None if length is None else self._decimal(length),
            )
        )

    def _entry(self, message: _Field) -> tuple[str, str]:
        """Key and value of a StringStringEntryProto; each may stand there once."""
        found: dict[int, str] = {}
        for field in self._fields(message.value, message.end):
            if field.number in (_ENTRY_KEY, _ENTRY_VALUE):
                if field.number in found:
                    raise self._malformed("an external data entry twice in one", "one")
                found[field.number] = self._text(field)
        return found.get(_ENTRY_KEY, ""), found.get(_ENTRY_VALUE, "")

    def _decimal(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise self._malformed(f"external data number {text!r}", "decimal digits")
        return int(text)

    def _text(self, field: _Field) -> str:
        self._expect(field, _BYTES)
        if field.end - field.value > _MAX_TEXT_BYTES:
            raise self._malformed("a name is too long", f"at most {_MAX_TEXT_BYTES} bytes")
        try:
            return str(self.data[field.value : field.end], "utf-8")
        except UnicodeDecodeError:
            raise self._malformed("a name is not UTF-8", "UTF-8") from None

    def _expect(self, field: _Field, wire: int) -> None:
        if field.wire != wire:
            raise self._malformed(
                f"field {field.number} has wire type {field.wire}", f"wire type {wire}"
            )

    def _fields(self, begin: int, end: int) -> Iterator[_Field]:
        """The fields of the message at [begin, end)."""
        data, position = self.data, begin
        while position < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise self._malformed("it has too many fields", f"at most {MAX_FIELDS}")
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 2**29:
                raise self._malformed(f"field number {number}", "1 to 536870911")
            if wire == _BYTES:
                length, position = self._varint(position, end)
                yield _Field(number, wire, position, position := self._skip(position, length, end))
            elif wire == _VARINT:
                value, position = self._varint(position, end)
                yield _Field(number, wire, value, position)
            elif wire in (_FIXED64, _FIXED32):
                position = self._skip(position, 8 if wire == _FIXED64 else 4, end)
                yield _Field(number, wire, 0, position)
            else:
                raise self._malformed(
                    f"wire type {wire} at byte {position} of {len(data)}", "0, 1, 2 or 5"
                )

    def _skip(self, position: int, length: int, end: int) -> int:
        if length > end - position:
            raise self._malformed(
                f"a length of {length} at byte {position}", f"at most {end - position}"
            )
        return position + length

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """The base-128 number at `position` (at most 64 bits) and the place behind it."""
        value, shift = 0, 0
        data = self.data
        while position < end and shift < 70:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**64:
                    break
                return value, position
            shift += 7
        raise self._malformed(f"a malformed number at byte {position}", "a varint of 64 bits")

    def _malformed(self, got: str, expected: str) -> BundleDamaged:
        return BundleDamaged(
            f"{self.name} is not a well-formed ONNX file",
            got=got,
            expected=expected,
            fix="do not use this bundle unless you made it yourself",
        )
