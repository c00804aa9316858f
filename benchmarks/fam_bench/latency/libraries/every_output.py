"""Runners that write every output of their graph at each run, wanted or not.

TensorRT and PyTorch do so in any case; ONNX Runtime leaves out what nobody asks for, such as the
taps of a native step. What is compared does the same work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fam_runtime.backends.base import Runner, Value, Values
from fam_runtime.device.backend import DeviceBackend
from fam_runtime.device.graph import DeviceGraph
from fam_runtime.device.runner import DeviceRunner

if TYPE_CHECKING:
    from fam_runtime.backends.base import Backend
    from fam_runtime.bundle import GraphSpec
    from fam_runtime.device.tensor import DeviceTensor


def writing_every_output(backend: Backend, runner: Runner) -> Runner:
    """`runner`, which `backend` loaded, with that habit; closing it closes `runner`."""
    if isinstance(backend, DeviceBackend) and isinstance(runner, DeviceRunner):
        graph = EveryOutputGraph(runner.device_graph, runner.spec)
        return DeviceRunner(runner.graph, runner.spec, backend.api, graph)
    return EveryOutputRunner(runner)


class EveryOutputRunner(Runner):
    """A runner of the host.

    Args:
        runner: runs the graph.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.graph, runner.spec)
        self._runner = runner

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """See :meth:`Runner.prepare`."""
        self._runner.prepare(sizes)

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Compute all, and give what is wanted; the rest is dropped."""
        values = self._runner.run(feeds)
        return {name: values[name] for name in outputs}

    def close_impl(self) -> None:
        """Close the runner."""
        self._runner.close()


class EveryOutputGraph(DeviceGraph):
    """A graph on a device; on it, what is not wanted is written to one place over and over.

    Args:
        graph: does the work.
        spec: its outputs.
    """

    def __init__(self, graph: DeviceGraph, spec: GraphSpec) -> None:
        self._graph, self._spec = graph, spec

    @property
    def capturable(self) -> bool:
        """See :attr:`DeviceGraph.capturable`."""
        return self._graph.capturable

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """See :meth:`DeviceGraph.prepare`."""
        self._graph.prepare(sizes)

    def enqueue(self, values: Mapping[str, DeviceTensor]) -> None:
        """See :meth:`DeviceGraph.enqueue`."""
        self._graph.enqueue(values)

    def required_outputs(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """All of them."""
        return tuple(output.name for output in self._spec.outputs)

    def close(self) -> None:
        """See :meth:`DeviceGraph.close`."""
        self._graph.close()
