"""The example's client for tests, in a process of the server's environment.

NVIDIA's client asks for older libraries than the project, so it lives beside the server.
"""

from __future__ import annotations

import itertools
import pickle
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fam_bench.tritonserver import ROOT, TritonServer

PROTOCOLS = ("http", "grpc", "stream")
ANSWER_TIMEOUT_S = 120.0


class ServedError(Exception):
    """What the server answered instead of a picture.

    Attributes:
        status: of HTTP (``400``) or gRPC (``StatusCode.INVALID_ARGUMENT``), as a text.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """Pictures that came back; see `runtime/examples/triton_client.py`."""

    images: Any
    pngs: list[bytes]
    settings: list[dict[str, Any]]
    progress: list[dict[str, Any]] = field(default_factory=list)


class ClientProcess:
    """Asks a server over any protocol, from any thread."""

    def __init__(self, python: Path) -> None:
        worker = Path(__file__).with_name("client_worker.py")
        example = ROOT / "runtime/examples/triton_client.py"
        self._process = subprocess.Popen(
            [python, worker, example], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Answer]] = {}
        self._progress: dict[int, list[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(
        self,
        server: TritonServer,
        request: Mapping[str, Any],
        *,
        protocol: str = "http",
        model: str = "fam_diffusion",
        **options: Any,
    ) -> Future[Answer]:
        """Ask without waiting; `model` is the plain one's name, whatever the protocol."""
        address = server.http_address if protocol == "http" else server.grpc_address
        options["model"] = f"{model}_stream" if protocol == "stream" else model
        return self._send(f"ask_{protocol}", address, dict(request), **options)[1]

    def submit_until(
        self, server: TritonServer, request: Mapping[str, Any], *, model: str
    ) -> tuple[Future[Answer], Callable[[], None]]:
        """Ask over gRPC without waiting; the second value cancels the request."""
        number, future = self._send(
            "ask_grpc_until", server.grpc_address, dict(request), model=model
        )
        return future, lambda: self._write((number, None, (), {}))

    def load(self, server: TritonServer, model: str) -> None:
        """Load a model over gRPC.

        Raises:
            ServedError: the server refused, or failed.
        """
        self._send("load_grpc", server.grpc_address, model=model)[1].result(ANSWER_TIMEOUT_S)

    def ask(self, server: TritonServer, request: Mapping[str, Any], **options: Any) -> Answer:
        """Ask and wait.

        Raises:
            ServedError: the server refused, or failed.
        """
        return self.submit(server, request, **options).result(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End the process; it answers what it was asked before."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(ANSWER_TIMEOUT_S)

    def _send(
        self, function: str, *arguments: object, **options: object
    ) -> tuple[int, Future[Answer]]:
        future: Future[Answer] = Future()
        number = next(self._numbers)
        self._waiting[number], self._progress[number] = future, []
        self._write((number, function, arguments, options))
        return number, future

    def _write(self, message: tuple[object, ...]) -> None:
        assert self._process.stdin is not None
        with self._lock:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                number, kind, content = pickle.load(self._process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            if kind == "progress":
                self._progress[number].append(content)
                continue
            future, progress = self._waiting.pop(number), self._progress.pop(number)
            if kind == "answer":
                future.set_result(Answer(**content, progress=progress))
            else:
                future.set_exception(ServedError(*content))
        for future in self._waiting.values():
            future.set_exception(ServedError("None", "the client's process ended"))
