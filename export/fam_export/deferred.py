"""Modules whose parameters have shapes but no data: the data is read when a graph is written.

A graph is traced from shapes alone, and its weights are copied from the checkpoint to the bundle
one tensor at a time. So an export needs the memory of the largest tensor, not of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

_DATA = "fam_deferred_data"


@dataclass(frozen=True)
class DeferredData:
    """Where the data of one parameter is.

    Attributes:
        source: tensors of a part of the checkpoint, read when they are asked for.
        name: which one.
        dtype: that a graph holds it in.
    """

    source: Mapping[str, torch.Tensor]
    name: str
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """The data, in the graph's dtype."""
        return self.source[self.name].to(self.dtype).contiguous()


class DeferredParameters(Mapping[str, torch.Tensor]):
    """The data of the deferred parameters of a module by their names in it, read when asked for.

    Args:
        module: holds deferred modules, and may hold buffers and parameters of its own.
        dtype: that the data is converted to at last; None leaves it as the graph holds it.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        found = ((name, deferred_data(parameter)) for name, parameter in module.named_parameters())
        self._data = {name: data for name, data in found if data is not None}
        self._dtype = dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        values = self._data[name].read()
        return values if self._dtype is None else values.to(self._dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._data  # the inherited one would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def deferred_data(parameter: nn.Parameter) -> DeferredData | None:
    """Where the data of `parameter` is; None if it has its data."""
    data: DeferredData | None = getattr(parameter, _DATA, None)
    return data


def defer(
    module: nn.Module,
    source: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    *,
    compute_dtype: torch.dtype | None = None,
) -> None:
    """Give `module` parameters without data, on the meta device.

    Args:
        module: every parameter of it is replaced.
        source: the data, by the names of the parameters.
        dtype: that graphs hold the parameters in.
        compute_dtype: of the parameters, if it is another one: the numeric check computes in fp32
            with the weights that a graph of half precision holds.
    """
    for owner_name, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            full_name = f"{owner_name}.{name}" if owner_name else name
            empty = torch.empty(parameter.shape, dtype=compute_dtype or dtype, device="meta")
            deferred = nn.Parameter(empty, requires_grad=False)
            setattr(deferred, _DATA, DeferredData(source, full_name, dtype))
            owner._parameters[name] = deferred


@contextmanager
def deferred_replaced(module: nn.Module) -> Iterator[list[tuple[nn.Module, str, nn.Parameter]]]:
    """Inside, the deferred parameters of `module` may be replaced; afterwards they are back.

    Yields:
        Each with the module that owns it and its name there.
    """
    deferred = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if deferred_data(parameter) is not None
    ]
    try:
        yield deferred
    finally:
        for owner, name, parameter in deferred:
            owner._parameters[name] = parameter


@contextmanager
def data_on_demand(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, `module` computes: each layer reads its data when it is called, and drops it after.

    Args:
        module: holds deferred modules.
        dtype: that it computes in.
    """
    from accelerate.hooks import attach_align_device_hook, remove_hook_from_submodules

    with deferred_replaced(module) as deferred:
        attach_align_device_hook(
            module,
            execution_device="cpu",
            offload=bool(deferred),
            weights_map=DeferredParameters(module, dtype),
        )
        try:
            yield
        finally:
            remove_hook_from_submodules(module)
