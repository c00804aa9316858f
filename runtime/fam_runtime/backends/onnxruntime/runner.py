"""A session as a runner; on a GPU, values stay there between runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.backends.base import Runner, Value, Values
from fam_runtime.backends.onnxruntime.loader import (
    LOG_NOTHING_BUT_CRASHES,
    Provider,
    SharedWeights,
    error_from_onnxruntime,
    import_onnxruntime,
)

if TYPE_CHECKING:
    import onnxruntime

    from fam_runtime.bundle import GraphSpec


class DeviceValue:
    """A tensor in GPU memory.

    Args:
        memory: the onnxruntime value that owns it.
        dtype: its element type.
    """

    def __init__(self, memory: Any, dtype: np.dtype[Any]) -> None:
        self.memory, self.dtype = memory, dtype
        self.shape: tuple[int, ...] = tuple(memory.shape())


class OnnxruntimeRunner(Runner):
    """A graph in an ONNX Runtime session.

    Args:
        graph: name of the graph's file in the bundle.
        spec: its inputs and outputs.
        session: the loaded session.
        provider: where it runs.
        weights: the tensors that the session shares with others; they must outlive it.
    """

    def __init__(
        self,
        graph: str,
        spec: GraphSpec,
        session: onnxruntime.InferenceSession,
        provider: Provider = "cpu",
        weights: SharedWeights | None = None,
    ) -> None:
        super().__init__(graph, spec)
        self._session: Any = session
        self._weights = weights
        self._provider = provider
        self._dtypes = {output.name: np.dtype(output.dtype) for output in spec.outputs}
        self._run_options: Any = import_onnxruntime().RunOptions()
        self._run_options.log_severity_level = LOG_NOTHING_BUT_CRASHES
        # A replayed native step wants the taps only: skip what comes after them.
        self._run_options.only_execute_path_to_fetches = True

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Run the session; see :meth:`fam_runtime.backends.base.Runner.run`."""
        try:
            if self._provider == "cpu":
                values = self._session.run(list(outputs), dict(feeds), self._run_options)
                return dict(zip(outputs, values, strict=True))
            return self._run_bound(feeds, outputs)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise error_from_onnxruntime(f"onnxruntime failed in {self.graph}", error) from error

    def close_impl(self) -> None:
        """Drop the session, which frees its memory, and only then its weights."""
        self._session = None
        self._weights = None

    def _run_bound(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, DeviceValue):
                binding.bind_ortvalue_input(name, value.memory)
            else:
                array = np.asarray(value)
                # ascontiguousarray makes a scalar a vector of one, which the graph refuses.
                binding.bind_cpu_input(name, np.ascontiguousarray(array).reshape(array.shape))
        for name in outputs:
            binding.bind_output(name, self._provider)
        self._session.run_with_iobinding(binding, self._run_options)
        values = binding.get_outputs()
        return {
            name: DeviceValue(value, self._dtypes[name])
            for name, value in zip(outputs, values, strict=True)
        }
