"""One client's request: what it asks for, whether it still wants it, and how it is answered."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fam_runtime.triton.interface import INPUTS, PROGRESS
from fam_runtime.triton.request_reading import Arguments, arguments_from_tensors
from fam_runtime.triton.served.errors import triton_error

Array = npt.NDArray[Any]


class ClientRequest(ABC):
    """A request of the server; subclasses know how its model answers.

    Args:
        utilities: the module ``triton_python_backend_utils``.
        request: its request.

    Attributes:
        answered: it has its answer, whichever.
    """

    def __init__(self, utilities: Any, request: Any) -> None:
        self._utilities, self._request = utilities, request
        self.answered = False

    def arguments(self) -> list[Arguments]:
        """The pipeline's arguments for every picture of the request.

        Raises:
            InvalidRequest: the tensors do not fit together.
        """
        tensors = {}
        for served in INPUTS:
            tensor = self._utilities.get_input_tensor_by_name(self._request, served.name)
            if tensor is not None:
                tensors[served.name] = tensor.as_numpy()
        return arguments_from_tensors(tensors)

    def wants(self, output: str) -> bool:
        """Whether the client asked for `output`; without a list it asks for all."""
        return output in self._request.requested_output_names()

    def finish(self, outputs: Mapping[str, Array]) -> None:
        """Answer with the outputs that are wanted."""
        tensors = [
            self._utilities.Tensor(name, array)
            for name, array in outputs.items()
            if self.wants(name)
        ]
        self._answer(self._utilities.InferenceResponse(output_tensors=tensors))

    def fail(self, error: Exception) -> None:
        """Answer with an error, by its kind the client's or the server's."""
        failure = triton_error(self._utilities, error)
        self._answer(self._utilities.InferenceResponse(output_tensors=[], error=failure))

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the client no longer waits."""

    @abstractmethod
    def tell(self, progress: Mapping[str, Any]) -> None:
        """Report how far one of the request's pictures is, where the client sees it."""

    @abstractmethod
    def _answer(self, response: Any) -> None:
        """Give the response that ends the request; until it is given, another one can be."""


class PlainRequest(ClientRequest):
    """Of a model that answers each request once; the answer is kept until `execute` returns it."""

    response: Any = None

    @property
    def cancelled(self) -> bool:
        """Whether the client no longer waits."""
        return bool(self._request.is_cancelled())

    def tell(self, progress: Mapping[str, Any]) -> None:
        """There is only one answer, and this is not it."""

    def _answer(self, response: Any) -> None:
        self.response, self.answered = response, True


class StreamRequest(ClientRequest):
    """Of a decoupled model: any number of answers, of which the last holds the pictures.

    That it was the last is said by an empty one of its own. A sender takes nothing more once it was
    told so, and sending a large picture may fail: then there is still an error to be sent.
    """

    def __init__(self, utilities: Any, request: Any) -> None:
        super().__init__(utilities, request)
        self._sender = request.get_response_sender()

    @property
    def cancelled(self) -> bool:
        """Whether the client no longer waits."""
        return bool(self._sender.is_cancelled())

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Send one response with nothing but the progress in it."""
        if not self.wants(PROGRESS):
            return
        tensor = self._utilities.Tensor(PROGRESS, text_tensor([json.dumps(dict(progress))]))
        self._sender.send(self._utilities.InferenceResponse(output_tensors=[tensor]))

    def _answer(self, response: Any) -> None:
        self._sender.send(response)
        self.answered = True
        self._sender.send(flags=self._utilities.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def text_tensor(texts: Sequence[str | bytes]) -> Array:
    """Texts or bytes as Triton's ``[B, 1]`` of objects."""
    tensor = np.empty((len(texts), 1), dtype=np.object_)
    for index, text in enumerate(texts):
        tensor[index, 0] = text.encode() if isinstance(text, str) else text
    return tensor
