"""safetensors files written piece by piece: a checkpoint need not fit in memory to be made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fam_runtime.bundle import write_atomically

DTYPE_NAMES: Mapping[str, str] = {"float16": "F16", "float32": "F32"}
"""NumPy's names and the format's."""

HEADER_ALIGNMENT_BYTES = 8
"""The data begins at a multiple of it; readers map tensors where they lie."""


@dataclass(frozen=True)
class StreamedTensor:
    """A tensor that is made while it is written.

    Attributes:
        name: unique in the file.
        shape: dimensions.
        dtype: a key of :data:`DTYPE_NAMES`.
        pieces: its elements in C order, in arrays of any size and of this dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterator[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def write_safetensors(
    path: Path, tensors: Sequence[StreamedTensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path`, in this order; the file appears whole.

    Raises:
        ValueError: a tensor gave other bytes than it announced, or a name is there twice.
        StorageError: the disk is full or the place may not be written.
    """
    header = _header(tensors, metadata or {})

    def write(file: BinaryIO) -> None:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for tensor in tensors:
            written = sum(_write_piece(file, tensor, piece) for piece in tensor.pieces())
            if written != tensor.nbytes:
                raise ValueError(f"{tensor.name}: {written} bytes, announced {tensor.nbytes}")

    write_atomically(path, write)


def _header(tensors: Sequence[StreamedTensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in tensors:
        if tensor.name in entries:
            raise ValueError(f"two tensors are called {tensor.name}")
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)


def _write_piece(file: BinaryIO, tensor: StreamedTensor, piece: NDArray[Any]) -> int:
    if piece.dtype != np.dtype(tensor.dtype):
        raise ValueError(f"{tensor.name}: a piece of {piece.dtype}, announced {tensor.dtype}")
    return file.write(np.ascontiguousarray(piece).data.cast("B") if piece.size else b"")
