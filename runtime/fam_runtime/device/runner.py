"""A device graph as a runner: for the graphs that are run one by one, not in a stage's steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from fam_runtime.backends.base import Runner, Value, Values
from fam_runtime.backends.checks import bind_shape, shape_from_symbols
from fam_runtime.device.tensor import DeviceTensor

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec
    from fam_runtime.device.api import DeviceApi
    from fam_runtime.device.graph import DeviceGraph


class DeviceRunner(Runner):
    """Runs a graph on values of the device, or on arrays, which it uploads.

    Args:
        graph: name of the graph's file in the bundle.
        spec: its inputs and outputs.
        api: the device.
        device_graph: the graph in the library; the runner closes it.
    """

    def __init__(
        self, graph: str, spec: GraphSpec, api: DeviceApi, device_graph: DeviceGraph
    ) -> None:
        super().__init__(graph, spec)
        self.device_graph = device_graph
        self._api = api
        self._before_closing: list[Callable[[], None]] = []

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Put one run on the stream; outputs are in memory of their own. Nobody waits."""
        self._api.activate()
        values = {name: self._on_device(value) for name, value in feeds.items()}
        sizes: dict[str, int] = {}
        for spec in self.spec.inputs:
            bind_shape(spec.shape, values[spec.name].shape, sizes)
        required = self.device_graph.required_outputs(outputs)
        for spec in self.spec.outputs:
            if spec.name in required:
                shape = shape_from_symbols(spec.shape, sizes)
                values[spec.name] = self._api.memory.tensor(shape, spec.dtype)
        self.device_graph.enqueue(values)
        return {name: values[name] for name in outputs}

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Have the graph ready for `sizes`; see :meth:`Runner.prepare`."""
        if sizes:
            self._api.activate()
            self.device_graph.prepare(sizes)

    def before_closing(self, action: Callable[[], None]) -> None:
        """Have `action` called once, before the graph is freed."""
        self._before_closing.append(action)

    def close_impl(self) -> None:
        """Free the graph, once the stream is done with it and nobody launches it any more."""
        self._api.activate()
        with ExitStack() as closing:  # whatever one of them raises; last in, first out
            closing.callback(self.device_graph.close)
            while self._before_closing:
                closing.callback(self._before_closing.pop())
            closing.callback(self._api.synchronize)

    def _on_device(self, value: Value) -> DeviceTensor:
        if isinstance(value, DeviceTensor):
            return value
        return self._api.memory.upload(np.asarray(value))
