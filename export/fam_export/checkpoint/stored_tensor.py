"""Tensors in safetensors files, read one at a time and only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from fam_export.checkpoint.json_file import DOWNLOAD_AGAIN
from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    import torch

TORCH_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Names of the safetensors format and of torch."""

Step = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file that is not read yet, and what is to be done to it once it is.

    It takes the few operations that diffusers' converters do on state dicts, and remembers them:
    a converter can be run over a whole file without reading one weight.

    Attributes:
        path: the safetensors file. It is mapped anew for each tensor that is read, so that no more
            of it stays in memory than the tensors that are in use.
        key: the tensor's name there.
        shape: after `steps`.
        steps: operations on the tensor that is read, in order.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype_name: str
    steps: tuple[Step, ...] = ()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """As it is stored."""
        import torch

        dtype: torch.dtype = getattr(torch, TORCH_DTYPES[self.dtype_name])
        return dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> StoredTensor:
        """A part of the tensor."""
        return self._then(lambda tensor: tensor[index])

    @property
    def T(self) -> StoredTensor:
        """The transposed matrix."""
        return self._then(lambda tensor: tensor.T)

    def clone(self) -> StoredTensor:
        """Itself: what is read is never written to."""
        return self

    def detach(self) -> StoredTensor:
        """Itself: files hold no gradients."""
        return self

    def contiguous(self) -> StoredTensor:
        """The tensor in C order."""
        return self._then(lambda tensor: tensor.contiguous())

    def item(self) -> float:
        """The value of a scalar, read now."""
        return float(self.read().item())

    def read(self) -> torch.Tensor:
        """The tensor on the CPU; without steps, a view of the mapped file.

        Raises:
            CheckpointError: the file has changed since it was opened.
        """
        try:
            tensor = _opened(self.path, "pt").get_tensor(self.key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the tensor {self.key} could not be read", got=str(error), fix=DOWNLOAD_AGAIN
            ) from error
        for step in self.steps:
            tensor = step(tensor)
        result: torch.Tensor = tensor
        return result

    def _then(self, step: Step) -> StoredTensor:
        import torch

        shape = tuple(step(torch.empty(self.shape, device="meta")).shape)
        return replace(self, shape=shape, steps=(*self.steps, step))


@dataclass(frozen=True)
class TensorFile:
    """A whole safetensors file: its tensors by name, and its metadata."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def check_tensor_file(path: Path) -> None:
    """Read the header of `path` only.

    Raises:
        CheckpointError: the file is missing, truncated or damaged.
    """
    _opened(path, "numpy")


def open_tensor_file(path: Path) -> TensorFile:
    """The tensors of the safetensors file at `path`, none of them read.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or holds unknown types.
    """
    file = _opened(path, "pt")
    tensors, keys = {}, file.keys()
    for key in keys:
        header = file.get_slice(key)
        dtype_name = str(header.get_dtype())
        if dtype_name not in TORCH_DTYPES:
            raise CheckpointError(
                f"{path}: the type of {key} is not supported",
                got=dtype_name,
                expected="fp32, fp16 or bf16 weights",
                fix="use the checkpoint in one of these types",
            )
        tensors[key] = StoredTensor(path, key, tuple(header.get_shape()), dtype_name)
    return TensorFile(tensors, file.metadata() or {})


def _opened(path: Path, framework: str) -> Any:
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing", fix=DOWNLOAD_AGAIN) from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged",
            got=str(error),
            expected="a whole safetensors file",
            fix=DOWNLOAD_AGAIN,
        ) from error
