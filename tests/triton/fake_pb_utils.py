"""A stand-in for the process of Triton's Python backend, with the rules that a real server has.

Seen in server 2.51: requests are checked against the configuration; a request of Business Logic
Scripting that fails is a response with an error; tensors are copied on their way to a model and
back; scalars are ``[1]``; ``requested_output_names`` is a set. Codes of errors arrive as the model
gave them, as in later servers; 2.51 makes INTERNAL of all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fam_runtime.bundle import Bundle
from fam_runtime.triton.graph_config import can_batch, graph_io
from fam_runtime.triton.graph_names import model_names
from fam_runtime.triton.served.graph_model import TritonPythonModel

MODULE = "triton_python_backend_utils"

_NUMPY_TYPES = {
    "TYPE_FP32": np.float32,
    "TYPE_FP16": np.float16,
    "TYPE_INT64": np.int64,
    "TYPE_INT32": np.int32,
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT64": np.uint64,
    "TYPE_STRING": np.object_,
}


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = range(4)
    UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(4, 8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):
    pass


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray), type(array)
        # Not copied before it is sent: who writes to the array writes to the tensor.
        self._name, self._array = name, np.asarray(array, order="C")

    def name(self) -> str:
        return self._name

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def as_numpy(self) -> np.ndarray:
        return self._array

    def is_cpu(self) -> bool:
        return True

    def sent(self) -> Tensor:
        """The tensor that arrives on the other side: a view of a copy of its own."""
        return Tensor(self._name, self._array.copy().view())


class InferenceResponse:
    def __init__(
        self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None
    ) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class InferenceRequest:
    """As a model makes it, or receives it; `exec` is bound to a server."""

    server: FakeServer

    def __init__(
        self,
        *,
        inputs: Sequence[Tensor],
        requested_output_names: Sequence[str],
        model_name: str,
        model_version: int = -1,
        preferred_memory: object = None,
    ) -> None:
        self._inputs, self._wanted = list(inputs), list(requested_output_names)
        self.model_name, self.model_version = model_name, model_version
        self.preferred_memory = preferred_memory
        self.cancelled = False

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> set[str]:
        return set(self._wanted)

    def is_cancelled(self) -> bool:
        return self.cancelled

    def exec(self) -> InferenceResponse:
        self.server.executed.append(self)
        return self.server.execute(self.model_name, self.model_version, [self])[0]


class FakeServer:
    """Models of one server.

    Attributes:
        utilities: what :data:`MODULE` is to them.
        executed: requests of Business Logic Scripting, in order.
        logged: lines of the models.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, int], tuple[Any, dict[str, Any]]] = {}
        self.executed: list[InferenceRequest] = []
        self.logged: list[str] = []
        log = self.logged.append
        self.utilities = SimpleNamespace(
            Tensor=Tensor,
            InferenceRequest=type("InferenceRequest", (InferenceRequest,), {"server": self}),
            InferenceResponse=InferenceResponse,
            TritonError=TritonError,
            TritonModelException=TritonModelException,
            PreferredMemory=lambda memory, device: (memory, device),
            TRITONSERVER_MEMORY_CPU="cpu",
            Logger=SimpleNamespace(log_info=log, log_warn=log, log_error=log, log_verbose=log),
            get_input_tensor_by_name=_input_by_name,
        )

    def load(self, model: Any, folder: Path, config: Mapping[str, Any], version: int = 1) -> None:
        """Initialize `model` as the version of `folder`, which has the model's name."""
        whole = {"name": folder.name, "parameters": {}, **config}
        args = {
            "model_config": json.dumps(whole),
            "model_repository": str(folder),
            "model_version": str(version),
            "model_name": folder.name,
        }
        if hasattr(model, "initialize"):
            model.initialize(args)
        self._models[folder.name, version] = model, whole

    def execute(
        self, name: str, version: int, requests: Sequence[InferenceRequest]
    ) -> list[InferenceResponse]:
        """Answers to requests that the scheduler hands to a model together."""
        if (name, version) not in self._models:
            text = f"Failed for execute the inference request. Model '{name}' is not ready."
            return [InferenceResponse(error=TritonError(text))] * len(requests)
        model, config = self._models[name, version]
        answers = {i: _refusal(request, config) for i, request in enumerate(requests)}
        good = [i for i, answer in answers.items() if answer is None]
        arriving = [_sent(requests[i]) for i in good]
        for i, response in zip(good, model.execute(arriving) if good else [], strict=True):
            tensors = [tensor.sent() for tensor in response.output_tensors()]
            answers[i] = InferenceResponse(tensors, response.error())
        return [answer for answer in answers.values() if answer is not None]

    def unload_all(self) -> None:
        for model, _ in self._models.values():
            if hasattr(model, "finalize"):
                model.finalize()
        self._models.clear()


def _input_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def _sent(request: InferenceRequest) -> InferenceRequest:
    return InferenceRequest(
        inputs=[tensor.sent() for tensor in request.inputs()],
        requested_output_names=sorted(request.requested_output_names()),
        model_name=request.model_name,
    )


def _refusal(request: InferenceRequest, config: Mapping[str, Any]) -> InferenceResponse | None:
    """What the server says before any model sees the request."""
    reason = _objection(request, config)
    text = f"Model {config['name']} - Error when running inference: {reason}"
    return InferenceResponse(error=TritonError(text)) if reason else None


def _objection(request: InferenceRequest, config: Mapping[str, Any]) -> str:
    declared = {tensor["name"]: tensor for tensor in config["input"]}
    given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    if declared.keys() != given.keys():
        return f"expected inputs {sorted(declared)} but got {sorted(given)}"
    for name, array in given.items():
        dims, shape = list(declared[name]["dims"]), list(array.shape)
        if config["max_batch_size"]:
            if not shape or shape[0] > config["max_batch_size"]:
                return f"batch-size of '{name}' must be <= {config['max_batch_size']}"
            shape = shape[1:]
        fits = len(dims) == len(shape) and all(
            dim in (-1, n) for dim, n in zip(dims, shape, strict=True)
        )
        if not fits:
            return f"unexpected shape for input '{name}'. Expected {dims}, got {shape}."
        if array.dtype != _NUMPY_TYPES[declared[name]["data_type"]]:
            return f"inference input '{name}' data-type is {array.dtype}"
    unknown = request.requested_output_names() - {tensor["name"] for tensor in config["output"]}
    return f"unexpected inference output {sorted(unknown)}" if unknown else ""


def write_part(bundle: Bundle, graph: str, folder: Path) -> Path:
    """The part of `bundle` with `graph`, as `fam-triton` copies it."""
    for name in ("manifest.json", *bundle.files_of_graph(graph)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, folder / name)
    return folder


def graph_configuration(
    bundle: Bundle, graph: str, /, *, max_batch_size: int = 0, **parameters: str
) -> dict[str, Any]:
    """The configuration of a graph's model, as JSON has it."""
    inputs, outputs = graph_io(bundle.manifest.graphs[graph], batched=max_batch_size > 0)
    return {
        "max_batch_size": max_batch_size,
        "input": [tensor._asdict() for tensor in inputs],
        "output": [tensor._asdict() for tensor in outputs],
        "parameters": {
            name: {"string_value": text} for name, text in {"graph": graph, **parameters}.items()
        },
    }


def serve_graphs(
    server: FakeServer,
    bundle: Bundle,
    repository: Path,
    base: str,
    *,
    version: int = 1,
    max_batch_size: int = 0,
    **parameters: str,
) -> None:
    """Load a model for every graph, with `max_batch_size` where the graph can be batched."""
    for graph, name in model_names(base, bundle.manifest.graphs).items():
        folder = repository / name
        write_part(bundle, graph, folder / str(version) / "bundle")
        batch = max_batch_size if can_batch(bundle.manifest.graphs[graph]) else 0
        config = graph_configuration(bundle, graph, max_batch_size=batch, **parameters)
        server.load(TritonPythonModel(), folder, config, version)
