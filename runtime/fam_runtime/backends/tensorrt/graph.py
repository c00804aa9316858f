"""A graph of a bundle on the GPU: an engine per range of sizes, made when one is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fam_runtime.backends.checks import bind_shape
from fam_runtime.backends.tensorrt.engine import Engine
from fam_runtime.backends.tensorrt.shapes import ranges_contain
from fam_runtime.device.graph import DeviceGraph

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec
    from fam_runtime.device.api import DeviceApi
    from fam_runtime.device.tensor import DeviceTensor

EngineForSizes = Callable[[Mapping[str, int]], Engine]
"""Makes the engine that runs at the given sizes of the symbols."""


class TensorrtGraph(DeviceGraph):
    """Runs whatever sizes it is given; a size outside of all engines costs the building of one.

    Args:
        spec: inputs and outputs.
        api: the device.
        engine_for: makes engines.
    """

    def __init__(self, spec: GraphSpec, api: DeviceApi, engine_for: EngineForSizes) -> None:
        self._spec, self._api, self._engine_for = spec, api, engine_for
        self._engines: list[Engine] = []

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold it; for sure after the first run."""
        return all(engine.capturable(self._api.stream) for engine in self._engines)

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Have the engine for `sizes` ready; see :meth:`DeviceGraph.prepare`."""
        self._engine(sizes)

    def enqueue(self, values: Mapping[str, DeviceTensor]) -> None:
        """Put one run on the device's stream; see :meth:`DeviceGraph.enqueue`."""
        sizes: dict[str, int] = {}
        for spec in self._spec.inputs:
            bind_shape(spec.shape, values[spec.name].shape, sizes)
        self._engine(sizes).enqueue(values, self._api.stream)

    def required_outputs(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """All of them: TensorRT writes every output."""
        return tuple(output.name for output in self._spec.outputs)

    def close(self) -> None:
        """Free the engines."""
        with ExitStack() as closing:  # whatever one of them raises
            while self._engines:
                closing.callback(self._engines.pop().close)

    def _engine(self, sizes: Mapping[str, int]) -> Engine:
        for engine in self._engines:
            if ranges_contain(engine.ranges, sizes):
                return engine
        self._engines.append(self._engine_for(sizes))
        return self._engines[-1]
