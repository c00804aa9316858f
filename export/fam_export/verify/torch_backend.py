"""PyTorch as a backend of the runtime: the exported modules themselves.

So the reference and the contestants run under the same pipeline, and only the library differs. As
the reference it computes in fp32: the weights are those that the bundle holds, rounded to its
precision; everything else is float32, the native attention that travels between the stages among
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from fam_export.checkpoint import Checkpoint
from fam_export.deferred import deferred_data
from fam_export.graph_definition import TORCH_DTYPES
from fam_export.graph_factory import GraphFactory, GraphKind, GraphName
from fam_export.options import ExportOptions
from fam_runtime.backends.base import Array, Backend, Runner, Value, Values
from fam_runtime.backends.place import Place
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, GraphSpec, Manifest
from fam_runtime.errors import BackendError
from fam_runtime.free_memory import free_memory_bytes
from fam_runtime.stage_loop import HostStageLoop, StageLoop

if TYPE_CHECKING:
    from fam_export.graph_definition import GraphDefinition

Watch = Callable[[str, Values, Values], None]
"""Told the graph, its feeds and its outputs after every run."""


@dataclass(frozen=True, eq=False)
class TorchValue:
    """A tensor on the device that the reference computes on."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[Any] | str:
        """Element type."""
        name = str(self.tensor.dtype).removeprefix("torch.")
        return name if name == "bfloat16" else np.dtype(name)


class TorchPlace(Place):
    """Memory of PyTorch.

    Args:
        device: whose.
        widened: graphs have float32 in place of any floating-point type of the bundle.
    """

    def __init__(self, device: torch.device, *, widened: bool = True) -> None:
        self.device, self._widened = device, widened

    def tensor(self, value: Value) -> torch.Tensor:
        """`value`, an array or a :class:`TorchValue`, as a tensor here."""
        if isinstance(value, TorchValue):
            return value.tensor
        # A copy, because arrays may be read-only.
        return torch.from_numpy(np.array(value, order="C")).to(self.device)

    def upload(self, array: Array) -> Value:
        """A copy."""
        return TorchValue(self.tensor(array))

    def download(self, value: Value) -> Array:
        """The tensor as an array, which may share its memory."""
        return array_of(value)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Value:
        """Zeros; where types are widened, float32 whatever `dtype` the bundle has there."""
        own = torch.float32 if self._widened else TORCH_DTYPES[dtype]
        return TorchValue(torch.zeros(shape, dtype=own, device=self.device))

    def free_memory_bytes(self) -> int | None:
        """What the GPU, or the host, has left."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return free_memory_bytes()

    def stage_loop(self) -> StageLoop:
        """The loop that feeds every step by hand."""
        return HostStageLoop(self)

    def close(self) -> None:
        """Give memory of a GPU that PyTorch keeps back to others."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class TorchRunner(Runner):
    """A module that was exported, in PyTorch.

    Args:
        definition: the module, with its weights, and its interface in float32.
        place: where it is.
        watch: told about every run.
    """

    def __init__(
        self, definition: GraphDefinition, place: TorchPlace, watch: Watch | None = None
    ) -> None:
        # The manifest's types are those of the graphs; a reference has float32 in their place.
        super().__init__(definition.file, GraphSpec(definition.inputs, definition.outputs))
        self._definition: GraphDefinition | None = definition
        self._place, self._watch = place, watch

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Call the module; see :meth:`fam_runtime.backends.base.Runner.run`."""
        try:
            tensors = {name: self._place.tensor(value) for name, value in feeds.items()}
            computed = self.compute(tensors)
        except (RuntimeError, MemoryError) as error:
            raise BackendError(
                f"PyTorch failed in {self.graph}",
                got=(str(error).splitlines() or [type(error).__name__])[0],
                expected="a successful call of the module",
                fix="take fewer or smaller targets, or a device with more memory",
            ) from error
        values: dict[str, Value] = {name: TorchValue(computed[name]) for name in outputs}
        if self._watch is not None:
            self._watch(self.graph, feeds, values)
        return values

    def compute(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Call the module, all of it in float32."""
        # By default PyTorch lets convolutions on a GPU round what they multiply to TF32.
        with torch.backends.flags(fp32_precision="ieee"):
            return self.definition.run(tensors)

    @property
    def definition(self) -> GraphDefinition:
        """The module and its interface."""
        assert self._definition is not None  # the base class refuses a closed runner
        return self._definition

    def close_impl(self) -> None:
        """Drop the module; the UNet is shared, and goes with the backend."""
        self._definition = None


class TorchBackend(Backend):
    """PyTorch, on a GPU where it has one.

    Args:
        checkpoint: that the bundle was exported from.
        manifest: of the bundle.
        device: None is ``cuda`` where PyTorch has it, else the CPU.
        reference: compute in fp32 with the bundle's weights; otherwise in the bundle's precision.
        watch: told about every run.
    """

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        manifest: Manifest,
        *,
        device: str | None = None,
        reference: bool = True,
        watch: Watch | None = None,
    ) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.place: TorchPlace = TorchPlace(torch.device(chosen), widened=reference)
        self._graphs: GraphFactory | None = GraphFactory(
            checkpoint, options_of(manifest), reference=reference
        )
        self.names = graph_names(manifest)
        self._watch = watch

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """The module of `graph`, its weights read and on the device."""
        definition = self.graphs.definition(self.names[graph])
        materialise(definition.module, self.place.device)
        return TorchRunner(definition, self.place, self._watch)

    @property
    def graphs(self) -> GraphFactory:
        """Makes the modules.

        Raises:
            BackendError: the backend was closed.
        """
        if self._graphs is None:
            raise BackendError("the torch backend was closed", fix="make another one")
        return self._graphs

    def describe(self) -> dict[str, str]:
        """Name, version and device."""
        device = self.place.device
        described = {"backend": self.name, "torch": torch.__version__, "device": device.type}
        if device.type == "cuda":
            described["gpu"] = torch.cuda.get_device_name(device)
        return described

    def close(self) -> None:
        """Drop the modules, and give memory of a GPU back to others."""
        self._graphs = None
        self.place.close()


def array_of(value: Value) -> Array:
    """An array, or a :class:`TorchValue` as one."""
    return value.tensor.cpu().numpy() if isinstance(value, TorchValue) else np.asarray(value)


def options_of(manifest: Manifest) -> ExportOptions:
    """The options that the bundle was exported with."""
    return ExportOptions(
        dtype=manifest.model.dtype,
        tap_form=manifest.taps.form,
        tap_layers=tuple(layer.name for layer in manifest.taps.layers),
        guidance=manifest.model.guidance,
        cutoff_reference=manifest.frequency_modulation.cutoff_reference,
        upsample_space=manifest.upsample.space,
        upsample_mode=manifest.upsample.mode,
        size_conditions=manifest.size_conditions or ExportOptions().size_conditions,
    )


def graph_names(manifest: Manifest) -> Mapping[str, GraphName]:
    """Every graph of a bundle by the name of its file."""
    plain = [encoder.graph for encoder in manifest.text_encoders]
    plain += [manifest.vae.encoder, manifest.vae.decoder]
    # The layout names these graphs' folders after the parts.
    names = {file: GraphName(cast("GraphKind", PurePosixPath(file).parent.name)) for file in plain}
    names[NATIVE_GRAPH] = GraphName("native")
    for target in manifest.targets:
        names[target.step] = GraphName("target", target)
        names[target.upsample] = GraphName("upsample", target)
    return names


def materialise(module: nn.Module, device: torch.device) -> None:
    """Give the deferred parameters of `module` their data, and bring all of it to `device`."""
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            data = deferred_data(parameter)
            if data is not None:
                values = data.read().to(device, parameter.dtype)
                owner._parameters[name] = nn.Parameter(values, requires_grad=False)
    module.to(device)
