"""Pictures by a Triton server on this machine, asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fam_bench.process_memory import memory_fields
from fam_bench.tritonserver import LOCALHOST, TritonEnvironment, TritonServer, TritonServerError
from fam_runtime.errors import BackendError
from fam_runtime.triton.endpoint import Answer, Endpoint, NoAnswer, ServerDead
from fam_runtime.triton.interface import DEFAULT_MODEL_NAME, INPUTS, PNG
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository

START_TIMEOUT_S = 600.0
"""Opening a bundle hashes its gigabytes."""

PICTURE_TIMEOUT_S = 3600.0
_LAST_WORDS = 1000


@dataclass(frozen=True)
class TritonPicture:
    """A picture that was served.

    Attributes:
        seconds: from sending the request to having the file.
        png: the file.
        stage_seconds: none; the server does not say.
    """

    seconds: float
    png: bytes
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


class TritonPictures:
    """A server of the layout `pipeline` with one instance; as a context manager it ends.

    It is ready when this returns, but loads graphs when it needs them: pictures of all sizes that
    the bundle has, which usually warm a server up, would count in its memory. So the first picture
    is slower. The server is ended with the thread that starts it.

    Args:
        bundle: of the pictures.
        folder: for the model repository, which holds a copy of the bundle, and logs.
        prompt, scale, steps, seed: of every picture; `scale` is times the native size.
        threads: of the CPU; None: one per core.
        device: `cpu`; servers that are started here see no GPU.
        environment: that holds the server; default: what ``make triton-env`` makes.
        start_timeout_s: until it is ready.

    Raises:
        TritonUnavailable: there is no environment with a server.
        BackendError: the server did not start, or a GPU was asked for.
        FamError: the bundle cannot be served.
    """

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        *,
        prompt: str,
        scale: float,
        steps: int,
        seed: int,
        threads: int | None = None,
        device: str = "cpu",
        environment: Path | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        if device != "cpu":
            raise BackendError(
                "the benchmark's Triton server sees no GPU",
                got=device,
                expected="cpu",
                fix="compare it on the CPU",
            )
        values = {"prompt": prompt, "scale": scale, "steps": steps, "seed": seed}
        self._document, self._peak_bytes = _document(values), 0
        found = TritonEnvironment.find(environment)
        repository, place = folder / "models", folder / "server"
        place.mkdir()
        write_repository(bundle, repository, RepositoryOptions(threads=threads, warmup=False))
        self._server = TritonServer(found, repository, place, start_timeout_s=start_timeout_s)
        try:
            self._server.start()
        except TritonServerError as error:
            raise BackendError(f"the Triton server did not start: {_shortened(error)}") from error

    def __enter__(self) -> TritonPictures:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def picture(self) -> TritonPicture:
        """Ask for one.

        Raises:
            BackendError: the server refused, failed or was too late; with what it said.
        """
        port = Endpoint("http", LOCALHOST, self._server.ports.http, "")
        path, begun = f"/v2/models/{DEFAULT_MODEL_NAME}/infer", time.perf_counter()
        try:
            deadline = time.monotonic() + PICTURE_TIMEOUT_S
            answer = port.ask("POST", path, deadline, self._document)
        except (ServerDead, NoAnswer) as error:
            raise BackendError(f"the Triton server made no picture: {error}") from error
        png = _png_of(answer)
        return TritonPicture(time.perf_counter() - begun, png)

    def peak_host_bytes(self) -> int:
        """Sum of the peaks of resident memory of the server and its stubs; kept after the end."""
        server, stubs = self._server.pid, self._server.children()
        processes = [] if server is None else [server, *(stub.pid for stub in stubs)]
        now = sum(memory_fields(process).get("VmHWM", 0) for process in processes)
        self._peak_bytes = max(self._peak_bytes, now)
        return self._peak_bytes

    def close(self) -> None:
        """End the server and what belongs to it."""
        try:
            self.peak_host_bytes()
        finally:
            self._server.close()


def _document(values: Mapping[str, Any]) -> dict[str, Any]:
    """A request for the PNG of one picture, in the JSON of the inference protocol."""
    types = {tensor.name: tensor.type.replace("STRING", "BYTES") for tensor in INPUTS}
    return {
        "inputs": [
            {"name": name, "shape": [1, 1], "datatype": types[name], "data": [value]}
            for name, value in values.items()
        ],
        "outputs": [{"name": PNG, "parameters": {"binary_data": True}}],
    }


def _png_of(answer: Answer) -> bytes:
    """The only output: a BYTES element, which is its length and its bytes, behind the JSON.

    Raises:
        BackendError: the answer is an error.
    """
    if answer.status != 200:
        said = _message(answer.body)
        raise BackendError(f"the Triton server made no picture: HTTP {answer.status}: {said}")
    data = answer.body[int(answer.headers["Inference-Header-Content-Length"]) :]
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length]


def _message(body: bytes) -> str:
    """What an answer that is an error says; Triton's own have a field for it."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"])
    return text[-_LAST_WORDS:]


def _shortened(error: TritonServerError) -> str:
    """What happened, and the end of the log."""
    what, _, log = str(error).partition("\n")
    return f"{what} {log[-_LAST_WORDS:]}"
