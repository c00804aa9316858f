"""The UNet's weights, once: every graph of a bundle refers to the same `weights.bin`.

The first graph decides what the file holds; a later graph's tensors are found in it by content. The
file never changes once it is written: what only a later graph has stays inside that graph.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from fam_runtime.bundle import write_atomically
from fam_runtime.errors import ExportError

WEIGHTS_FILE = "weights.bin"
TABLE_FILE = "weights.json"
ALIGNMENT_BYTES = 64
MIN_SHARED_BYTES = 256
"""Smaller tensors stay in the graph: libraries read shapes and axes from them while loading."""

MAX_UNSHARED_FRACTION = 0.05
"""A target graph brings constants of its own (interpolation matrices), never whole layers."""


@dataclass(frozen=True)
class WeightEntry:
    """Where a tensor lies in `weights.bin`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    sha256: str

    @property
    def identity(self) -> tuple[str, tuple[int, ...], str]:
        """Tensors with the same identity are the same tensor."""
        return self.dtype, self.shape, self.sha256


WeightTable = Mapping[str, WeightEntry]


def write_shared_weights(model: ir.Model, directory: Path) -> WeightTable:
    """Write `weights.bin` and `weights.json` from the initializers of `model`, duplicates once."""
    table: dict[str, WeightEntry] = {}
    known: set[tuple[str, tuple[int, ...], str]] = set()

    def write(file: BinaryIO) -> None:
        offset = 0
        for value, tensor in _shareable(model):
            data = tensor.tobytes()
            entry = _entry(tensor, data, offset)
            if entry.identity in known:
                continue
            known.add(entry.identity)
            table[str(value.name)] = entry
            file.write(data)
            padding = -entry.bytes % ALIGNMENT_BYTES
            file.write(b"\0" * padding)
            offset += entry.bytes + padding

    write_atomically(directory / WEIGHTS_FILE, write)
    records = {
        name: {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "offset": entry.offset,
            "bytes": entry.bytes,
            "sha256": entry.sha256,
        }
        for name, entry in table.items()
    }
    text = json.dumps(records, indent=1, sort_keys=True) + "\n"
    write_atomically(directory / TABLE_FILE, text.encode())
    return table


def read_weight_table(directory: Path) -> WeightTable:
    """The table that :func:`write_shared_weights` wrote."""
    records = json.loads((directory / TABLE_FILE).read_text(encoding="utf-8"))
    return {
        name: WeightEntry(r["dtype"], tuple(r["shape"]), r["offset"], r["bytes"], r["sha256"])
        for name, r in records.items()
    }


def refer_to_shared_weights(model: ir.Model, table: WeightTable, file: str) -> None:
    """Replace the tensors of `model` that the table holds by references to `weights.bin`.

    A shared tensor has the same name in every graph, so that a runtime can share it in memory.

    Raises:
        ExportError: much of the model is not in the table: it comes from another checkpoint.
    """
    by_identity = {entry.identity: (name, entry) for name, entry in table.items()}
    _free_names(model, set(table))
    shared: dict[str, ir.Value] = {}
    unshared_bytes = total_bytes = 0
    for value, tensor in list(_shareable(model)):
        total_bytes += tensor.nbytes
        found = by_identity.get(_entry(tensor, tensor.tobytes(), 0).identity)
        if found is None:
            unshared_bytes += tensor.nbytes
            continue
        _share(model, value, *found, shared)
    if unshared_bytes > MAX_UNSHARED_FRACTION * total_bytes:
        raise ExportError(
            f"{file}: the checkpoint's weights are not those of the bundle",
            got=f"{unshared_bytes} of {total_bytes} bytes that the bundle does not hold",
            expected="the checkpoint, dtype and options the bundle was exported with",
            fix="give the same --model, or another --output",
        )


def _share(
    model: ir.Model,
    value: ir.Value,
    name: str,
    entry: WeightEntry,
    shared: dict[str, ir.Value],
) -> None:
    """Make `value` the graph's one reference to `entry`, or an alias of it."""
    initializers = model.graph.initializers
    if name in shared:
        value.replace_all_uses_with(shared[name])
        del initializers[str(value.name)]
        return
    del initializers[str(value.name)]
    tensor = value.const_value
    assert tensor is not None
    value.name = name
    value.const_value = ir.ExternalTensor(
        WEIGHTS_FILE,
        entry.offset,
        entry.bytes,
        tensor.dtype,
        shape=ir.Shape(entry.shape),
        name=name,
    )
    initializers[name] = value
    shared[name] = value


def _free_names(model: ir.Model, reserved: set[str]) -> None:
    """Rename every value of the graph that bears a reserved name but may not be that tensor."""
    initializers = model.graph.initializers
    for name, value in list(initializers.items()):
        if name in reserved:
            del initializers[name]
            value.name = f"own.{name}"
            initializers[value.name] = value
    for node in model.graph:
        for output in node.outputs:
            if output.name in reserved:
                output.name = f"own.{output.name}"


def _shareable(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """The initializers that belong in the shared file, in graph order."""
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if (
            tensor is not None
            and tensor.nbytes >= MIN_SHARED_BYTES
            and tensor.dtype.is_floating_point()
        ):
            yield value, tensor


def _entry(tensor: ir.TensorProtocol, data: bytes, offset: int) -> WeightEntry:
    return WeightEntry(
        dtype=tensor.dtype.numpy().name,
        shape=tuple(tensor.shape.numpy()),
        offset=offset,
        bytes=tensor.nbytes,
        sha256=hashlib.sha256(data).hexdigest(),
    )
