"""The weights of one part of a checkpoint, under the names of its module, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fam_export.checkpoint.lora_layers import LoraLayer, fused_weight
from fam_export.checkpoint.stored_tensor import StoredTensor

if TYPE_CHECKING:
    import torch

    TensorMapping = Mapping[str, torch.Tensor]
else:
    TensorMapping = Mapping


class WeightSource(TensorMapping):
    """The parameters of a module by name; reading one reads that tensor of the file, no more.

    A tensor comes in the dtype it is stored in, LoRAs fused in. One that no LoRA changes is a view
    of the memory-mapped file: it costs no memory of its own, and is not to be written to.

    Args:
        tensors: what is stored, in the order of the module.
        adapters: what LoRAs add to a parameter, in their order.
    """

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        adapters: Mapping[str, tuple[LoraLayer, ...]] | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self._adapters = dict(adapters or {})

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor `name` on the CPU."""
        tensor = self._tensors[name].read()
        layers = self._adapters.get(name)
        return fused_weight(tensor, layers) if layers else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`, from the file's header."""
        return self._tensors[name].shape

    def stored_dtype(self, name: str) -> torch.dtype:
        """dtype of the tensor `name`, from the file's header."""
        return self._tensors[name].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, from the files' headers."""
        return sum(tensor.nbytes for tensor in self._tensors.values())
