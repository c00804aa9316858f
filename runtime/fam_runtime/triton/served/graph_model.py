"""A model that holds one graph, for servers whose own backends are absent or not wanted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.backends import Backend, Runner, open_backend
from fam_runtime.backends.base import Array
from fam_runtime.backends.checks import bind_shape, check_feeds
from fam_runtime.bundle import Bundle
from fam_runtime.errors import BackendError, FamError, InvalidRequest
from fam_runtime.tiling import tiles_of_latents
from fam_runtime.triton.graph_config import BATCH, can_batch, for_triton, from_triton
from fam_runtime.triton.served.errors import triton_error
from fam_runtime.triton.served.numpy_check import check_numpy
from fam_runtime.triton.served.parameters import (
    Parameters,
    backend_options,
    confined_folder,
    use_instance_device,
    version_folder,
)

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec

Answer = dict[str, Array]


@dataclass(frozen=True, eq=False)
class GraphCall:
    """One request: what it feeds, and which outputs it wants, in the graph's order."""

    feeds: Mapping[str, Array]
    outputs: tuple[str, ...]


class GraphService:
    """Answers calls with one graph.

    Args:
        backend: loads and runs it.
        bundle: the bundle, or the part of it with the graph.
        graph: name of its file.
        batched: join calls along the batch where they fit together.
        pictures: most pictures of a call.

    Raises:
        InvalidRequest: the bundle has no such graph, or it cannot be batched.
        BackendError: the backend cannot run it.
    """

    def __init__(
        self, backend: Backend, bundle: Bundle, graph: str, *, batched: bool, pictures: int = 1
    ) -> None:
        self.spec = _spec_of(bundle, graph)
        self._limits = largest_sizes(bundle, graph, pictures)
        if batched and not can_batch(self.spec):
            raise InvalidRequest(
                f"calls of {graph} cannot be joined",
                got="a max_batch_size above 0",
                expected="0, because not every input and output begins with B",
                fix="write the model repository again with fam-triton",
            )
        self._backend, self._batched, self._graph = backend, batched, graph
        backend.check_bundle(bundle)
        self._runner: Runner = backend.load(bundle, graph)

    def answer(self, calls: Sequence[GraphCall]) -> list[Answer | Exception]:
        """The outputs of each call, or what went wrong with it and with no other."""
        answers: dict[int, Answer | Exception] = {}
        for group in self._groups(calls):
            joined = self._joined([calls[index] for index in group])
            answers.update(zip(group, joined, strict=True))
        return [answers[index] for index in range(len(calls))]

    def close(self) -> None:
        """Free the graph."""
        self._runner.close()
        self._backend.close()

    def _groups(self, calls: Sequence[GraphCall]) -> Iterable[list[int]]:
        """Indices of calls that go together: all tensors alike but for the batch."""
        if not self._batched:
            return [[index] for index in range(len(calls))]
        groups: dict[object, list[int]] = {}
        for index, call in enumerate(calls):
            batches = {array.shape[:1] for array in call.feeds.values()}
            alike = tuple((name, array.shape[1:]) for name, array in sorted(call.feeds.items()))
            groups.setdefault(alike if len(batches) == 1 else index, []).append(index)
        return groups.values()

    def _joined(self, calls: Sequence[GraphCall]) -> Sequence[Answer | Exception]:
        """One run for all of `calls`; where it fails, one run for each."""
        if len(calls) == 1:
            return [self._alone(calls[0])]
        feeds = {
            spec.name: np.concatenate([call.feeds[spec.name] for call in calls])
            for spec in self.spec.inputs
        }
        wanted = {name for call in calls for name in call.outputs}
        outputs = tuple(spec.name for spec in self.spec.outputs if spec.name in wanted)
        whole = self._alone(GraphCall(feeds, outputs))
        if isinstance(whole, Exception):
            return [self._alone(call) for call in calls]
        first = self.spec.inputs[0].name
        ends = np.cumsum([len(call.feeds[first]) for call in calls])[:-1]
        pieces = {name: np.split(array, ends) for name, array in whole.items()}
        return [{name: pieces[name][i] for name in call.outputs} for i, call in enumerate(calls)]

    def _alone(self, call: GraphCall) -> Answer | Exception:
        try:
            _check_call(self._graph, self.spec, call, self._limits)
            values = self._runner.run(call.feeds, call.outputs)
            return {name: self._backend.download(value) for name, value in values.items()}
        except Exception as error:  # whatever it is, it is this request's and no other's
            return error


class TritonPythonModel:
    """Triton's interface to a graph; its parameters are those of :mod:`.parameters`.

    ``graph`` names the graph's file, ``bundle`` (default: ``bundle``) the folder below the
    version's with a part of a bundle, ``verify`` how thoroughly it is checked, and
    ``pictures_per_batch`` how many pictures a call may hold.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Verify and load the graph.

        Raises:
            TritonModelException: it cannot be loaded; the text says why.
        """
        self._utilities: Any = import_module("triton_python_backend_utils")
        try:
            check_numpy()
            self._service = _service_from(args)
        except FamError as error:
            raise self._utilities.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response to each request."""
        answers = self._service.answer([self._call(request) for request in requests])
        return [self._response(answer) for answer in answers]

    def finalize(self) -> None:
        """Free the graph."""
        self._service.close()

    def _call(self, request: Any) -> GraphCall:
        spec = self._service.spec
        feeds = {}
        for tensor in spec.inputs:
            given = self._utilities.get_input_tensor_by_name(request, tensor.name)
            if given is not None:
                feeds[tensor.name] = from_triton(given.as_numpy(), tensor.shape)
        wanted = set(request.requested_output_names())
        return GraphCall(feeds, tuple(out.name for out in spec.outputs if out.name in wanted))

    def _response(self, answer: Answer | Exception) -> Any:
        utilities = self._utilities
        if isinstance(answer, Exception):
            failure = triton_error(utilities, answer)
            return utilities.InferenceResponse(output_tensors=[], error=failure)
        tensors = [utilities.Tensor(name, for_triton(array)) for name, array in answer.items()]
        return utilities.InferenceResponse(output_tensors=tensors)


def _service_from(args: Mapping[str, str]) -> GraphService:
    parameters = Parameters(args)
    graph = parameters.required_text("graph")
    folder = confined_folder(version_folder(args), parameters.text("bundle", "bundle"))
    use_instance_device(args)
    name, options = backend_options(parameters)
    backend = open_backend(name, **options)
    backend.use_low_memory(parameters.flag("low_memory", False))
    bundle = Bundle.open(folder, verify=parameters.text("verify", "full"), only=[graph])
    batched = json.loads(args["model_config"])["max_batch_size"] > 0
    pictures = parameters.whole_number("pictures_per_batch", 1, minimum=1)
    return GraphService(backend, bundle, graph, batched=batched, pictures=pictures)


def _spec_of(bundle: Bundle, graph: str) -> GraphSpec:
    spec = bundle.manifest.graphs.get(graph)
    if spec is None:
        raise InvalidRequest(
            "the bundle has no such graph",
            got=graph,
            expected=", ".join(bundle.manifest.graphs),
            fix="write the model repository again with fam-triton",
        )
    return spec


def largest_sizes(bundle: Bundle, graph: str, pictures: int) -> dict[str, int]:
    """The largest size of every symbol of `graph` that a sampler ever sends.

    A client may call a graph's model itself, and a larger tensor would take the server's memory.
    """
    largest = {BATCH: pictures}
    manifest = bundle.manifest
    if graph == manifest.vae.decoder:
        latents = [manifest.latent_size(target) for target in manifest.targets]
        tiles = tiles_of_latents(latents, low_memory=False)
        largest["h"] = max((height for height, _ in tiles), default=0)
        largest["w"] = max((width for _, width in tiles), default=0)
    return largest


def _check_call(graph: str, spec: GraphSpec, call: GraphCall, limits: Mapping[str, int]) -> None:
    """Tell the caller's mistakes from the backend's.

    Raises:
        InvalidRequest: a feed is missing, its dtype or shape does not fit, or it is too large.
    """
    try:
        check_feeds(graph, spec.inputs, call.feeds)
    except BackendError as error:
        raise InvalidRequest(
            error.what, got=error.got, expected=error.expected, fix=error.fix
        ) from error
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        bind_shape(tensor.shape, call.feeds[tensor.name].shape, sizes)
    for symbol, size in sizes.items():
        if size > limits.get(symbol, size):
            raise InvalidRequest(
                f"{graph}: a tensor is larger than pictures of this bundle need",
                got=f"{symbol} = {size}",
                expected=f"at most {limits[symbol]}",
                fix="ask the model that makes pictures",
            )
