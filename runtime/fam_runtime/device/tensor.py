"""A tensor in device memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_BYTES

_BYTES_OF_DTYPE: dict[str, int] = {str(name): size for name, size in TENSOR_DTYPE_BYTES.items()}


@dataclass(frozen=True, eq=False)
class DeviceTensor:
    """A contiguous tensor.

    Attributes:
        address: where it begins.
        shape: dimensions.
        dtype: the manifest's name for it, since NumPy has no bfloat16.
        owner: whoever frees the memory when the last reference to it is gone.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    owner: object | None = None

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return tensor_bytes(self.shape, self.dtype)


def tensor_bytes(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a tensor of `shape`; `dtype` as in the manifest."""
    return math.prod(shape) * _BYTES_OF_DTYPE[dtype]
