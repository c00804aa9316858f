"""A session on the CPU as a runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.base import Runner, Value, Values
from fam_runtime.backends.onnxruntime.loader import (
    SharedWeights,
    error_from_onnxruntime,
    new_run_options,
)

if TYPE_CHECKING:
    import onnxruntime

    from fam_runtime.bundle import GraphSpec


class OnnxruntimeRunner(Runner):
    """A graph in an ONNX Runtime session on the CPU.

    Args:
        graph: name of the graph's file in the bundle.
        spec: its inputs and outputs.
        session: the loaded session.
        weights: the tensors that the session shares with others; they must outlive it.
    """

    def __init__(
        self,
        graph: str,
        spec: GraphSpec,
        session: onnxruntime.InferenceSession,
        weights: SharedWeights | None = None,
    ) -> None:
        super().__init__(graph, spec)
        self._session: Any = session
        self._weights = weights
        self._run_options: Any = new_run_options()

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Run the session; see :meth:`fam_runtime.backends.base.Runner.run`."""
        try:
            values = self._session.run(list(outputs), dict(feeds), self._run_options)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise error_from_onnxruntime(f"onnxruntime failed in {self.graph}", error) from error
        return dict(zip(outputs, values, strict=True))

    def close_impl(self) -> None:
        """Drop the session, which frees its memory, and only then its weights."""
        self._session = None
        self._weights = None
