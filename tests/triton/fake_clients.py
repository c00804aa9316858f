"""Requests as a picture model receives them from Triton, and where a stream's answers go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.triton.fake_pb_utils import InferenceResponse, Tensor

TYPES = {"seed": np.uint64, "steps": np.int32, "height": np.int32, "width": np.int32}
FINAL = 1


class Sender:
    """Where a decoupled model sends its answers; as in the server, it closes before it ends."""

    def __init__(self, request: Request) -> None:
        self.request, self.closed = request, False

    def send(self, response: Any = None, flags: int = 0) -> None:
        if self.closed:
            raise RuntimeError("Response sender has been closed.")
        self.closed = flags == FINAL
        names = [] if response is None else [tensor.name() for tensor in response.output_tensors()]
        if self.request.cannot_receive in names:
            raise RuntimeError("Failed to increase the shared memory pool size")
        self.request.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return self.request.is_cancelled()


class Request:
    """A client's request, which is cancelled once it has been looked at so many times."""

    def __init__(
        self,
        outputs: Sequence[str] = ("image", "settings"),
        patience: int = 10**6,
        cannot_receive: str = "",
        **inputs: Any,
    ) -> None:
        self.inputs, self.outputs, self.patience = inputs, outputs, patience
        self.cannot_receive = cannot_receive
        self.sent: list[tuple[InferenceResponse, int]] = []

    def tensor(self, name: str) -> Tensor | None:
        if name not in self.inputs:
            return None
        values = self.inputs[name] if isinstance(self.inputs[name], list) else [self.inputs[name]]
        column = np.array(
            [[value.encode() if isinstance(value, str) else value] for value in values],
            TYPES.get(name, np.object_),
        )
        return Tensor(name, column)

    def requested_output_names(self) -> set[str]:
        return set(self.outputs)

    def is_cancelled(self) -> bool:
        self.patience -= 1
        return self.patience < 0

    def get_response_sender(self) -> Sender:
        return Sender(self)
