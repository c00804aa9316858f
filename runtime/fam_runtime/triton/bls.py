"""The layout `engines`: a backend whose graphs are models of the same Triton server.

Each run of a graph is one request of Triton's Business Logic Scripting (BLS). It can be made only
while a Python model executes, in the process of that model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.backends.base import Array, Backend, Runner, Value, Values
from fam_runtime.backends.checks import bind_shape, describe_shape
from fam_runtime.errors import BackendError, OutOfMemory
from fam_runtime.triton.graph_config import for_triton, from_triton
from fam_runtime.triton.graph_names import model_name_of_graph

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, GraphSpec, TensorSpec

_FIX = "look into the server's log; docs/triton.md says how the models belong together"


class BlsBackend(Backend):
    """Graphs that other models of the server run.

    Values are NumPy arrays on the host: latents and native attention pass through shared memory in
    every step, also where the engines compute on a GPU. The layout `pipeline` is the one without
    that traffic.

    Args:
        utilities: the module ``triton_python_backend_utils`` of the server's process.
        base: name of the model that clients ask; the graphs' models are called after it.
        version: of the graphs' models, so that a sampler never meets another version's engines.
        engines: what runs the graphs there, for a picture's settings.
    """

    name = "triton"

    def __init__(self, utilities: Any, base: str, version: int, engines: str = "") -> None:
        self._utilities, self.base, self.version = utilities, base, version
        self._engines = engines

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse bfloat16, for which NumPy has no type.

        Raises:
            BackendError: the bundle is in bf16.
        """
        if bundle.manifest.model.dtype == "bf16":
            raise BackendError(
                "the triton backend cannot run a bundle in bf16",
                got=bundle.manifest.model.dtype,
                expected="fp16 or fp32",
                fix="export the checkpoint with --dtype fp16 or fp32, or use the layout pipeline "
                "with a TensorRT backend",
            )

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """A runner for the graph's model, which the server has loaded already."""
        self.check_bundle(bundle)
        model = model_name_of_graph(self.base, graph)
        spec = bundle.manifest.graphs[graph]
        return BlsRunner(graph, spec, self._utilities, model, self.version)

    def describe(self) -> dict[str, str]:
        """Which models of the server computed, and with what."""
        models = f"{self.base} version {self.version}"
        return {"backend": self.name, "models": models, "engines": self._engines}


class BlsRunner(Runner):
    """A graph as a model of the server.

    Args:
        graph: name of the graph's file in the bundle.
        spec: its inputs and outputs.
        utilities: see :class:`BlsBackend`.
        model: the server's name for it.
        version: of the model.
    """

    def __init__(
        self, graph: str, spec: GraphSpec, utilities: Any, model: str, version: int
    ) -> None:
        super().__init__(graph, spec)
        self._utilities, self._model, self._version = utilities, model, version

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Send one request; see :meth:`fam_runtime.backends.base.Runner.run`."""
        response = self._response(feeds, outputs)
        tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
        sizes: dict[str, int] = {}
        for spec in self.spec.inputs:
            bind_shape(spec.shape, feeds[spec.name].shape, sizes)
        specs = {spec.name: spec for spec in self.spec.outputs}
        return {name: self._value(specs[name], tensors.get(name), sizes) for name in outputs}

    def close_impl(self) -> None:
        """The model stays loaded: it is the server's."""

    def _response(self, feeds: Values, outputs: Sequence[str]) -> Any:
        utilities = self._utilities
        inputs = [
            utilities.Tensor(spec.name, for_triton(np.asarray(feeds[spec.name])))
            for spec in self.spec.inputs
        ]
        # Without a preference, an engine on a GPU would answer in its memory, which is no NumPy's.
        on_the_host = utilities.PreferredMemory(utilities.TRITONSERVER_MEMORY_CPU, 0)
        request = utilities.InferenceRequest(
            model_name=self._model,
            model_version=self._version,
            requested_output_names=list(outputs),
            inputs=inputs,
            preferred_memory=on_the_host,
        )
        try:
            response = request.exec()
        except Exception as error:  # the backend raises a class of its own, which is no FamError
            raise self._failure(str(error)) from error
        if response.has_error():
            kind = _kind_of(utilities, response.error())
            raise self._failure(response.error().message(), kind)
        return response

    def _value(self, spec: TensorSpec, tensor: Any, sizes: Mapping[str, int]) -> Array:
        """The answer's `tensor` as the manifest describes it."""
        if tensor is None:
            raise self._failure(f"no output {spec.name}")
        array = from_triton(tensor.as_numpy(), spec.shape)
        if array.dtype != spec.dtype or not bind_shape(spec.shape, array.shape, dict(sizes)):
            raise BackendError(
                f"the model {self._model} of the server answered with a wrong {spec.name}",
                got=f"{array.dtype} {list(array.shape)}",
                expected=f"{spec.dtype} {describe_shape(spec.shape, sizes)}",
                fix="write the model repository again with fam-triton, for this bundle",
            )
        return _caller_owns(array)

    def _failure(self, got: str, kind: type[BackendError] = BackendError) -> BackendError:
        return kind(
            f"the model {self._model} of the server failed in version {self._version}",
            got=got,
            expected="an answer",
            fix=_FIX,
        )


def _kind_of(utilities: Any, error: Any) -> type[BackendError]:
    """A graph's model says UNAVAILABLE when memory ran out (served/errors.py).

    Server 2.51 turns every code into INTERNAL on its way here; later ones pass it on.
    """
    return OutOfMemory if error.code() == utilities.TritonError.UNAVAILABLE else BackendError


def _caller_owns(array: Array) -> Array:
    """`array`, or a copy of it where its memory is not NumPy's, but the response's.

    ``Tensor.as_numpy`` of the server copies out of shared memory by itself (seen in 2.51, and in
    the source of later ones): a second copy would cost a millisecond for 16 MB, every step.
    """
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return array if owner.flags.owndata else array.copy()
