"""Runs in the server's environment, where NVIDIA's client is: asks for whoever holds its pipes.

Requests come as pickles on the standard input: (number, function of the example's client or of this
file, its arguments, its keywords), or (number, None, (), {}) to cancel one that may be cancelled.
Answers go to the standard output: (number, kind, content), where the kind is ``answer``, ``error``
or, for each step of a stream, ``progress``. Requests run side by side.
"""

from __future__ import annotations

import importlib.util
import pickle
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CLIENTS = 16


class StopStreaming(Exception):
    """The test wants no more of this stream."""


def described(error: Exception) -> tuple[str, str]:
    """Status and message of the client's error; any other has no status."""
    if hasattr(error, "status") and hasattr(error, "message"):
        return str(error.status()), str(error.message())
    return "None", repr(error)


def ask_grpc_until(
    client: Any, cancelled: threading.Event, address: str, request: Any, *, model: str
) -> Any:
    """What the example's `ask_grpc` asks, until somebody cancels it."""
    import tritonclient.grpc as grpc

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpc.InferenceServerClient(address) as server:
        types = client.input_types(server.get_model_metadata(model, as_json=True))
        call = server.async_infer(
            model,
            client.input_tensors(grpc, types, request),
            callback=lambda result, error: answers.put((result, error)),
        )
        while answers.empty():
            if cancelled.wait(0.01):
                call.cancel()
                break
        _, error = answers.get()
    raise error or AssertionError("the request was answered before it was cancelled")


def load_grpc(client: Any, _: threading.Event, address: str, *, model: str) -> Any:
    """Load a model; the client's error where that is locked."""
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(address) as server:
        server.load_model(model)
    return client.Answer(None, [], [])


OWN = {"ask_grpc_until": ask_grpc_until, "load_grpc": load_grpc}
"""Functions of this file; they are given the example's module and the word of a cancellation."""


def imported(example: str) -> Any:
    """The example's client as a module."""
    spec = importlib.util.spec_from_file_location("triton_client", example)
    client: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["triton_client"] = client
    spec.loader.exec_module(client)  # type: ignore[union-attr]
    return client


def main(example: str) -> None:
    client = imported(example)
    output, lock = sys.stdout.buffer, threading.Lock()
    cancelled: dict[int, threading.Event] = {}
    sys.stdout = sys.stderr  # what a library prints must not get between the pickles

    def say(number: int, kind: str, content: object) -> None:
        with lock:
            pickle.dump((number, kind, content), output)
            output.flush()

    def answer(number: int, function: str, arguments: Any, keywords: dict[str, Any]) -> None:
        stop_after = keywords.pop("stop_after", None)
        seen = 0

        def note(progress: object) -> None:
            nonlocal seen
            seen += 1
            say(number, "progress", progress)
            if seen == stop_after:
                raise StopStreaming(f"after {seen} steps")

        if function == "ask_stream":
            keywords["on_progress"] = note
        try:
            if function in OWN:
                result = OWN[function](client, cancelled[number], *arguments, **keywords)
            else:
                result = getattr(client, function)(*arguments, **keywords)
        except Exception as error:
            say(number, "error", described(error))
        else:
            say(number, "answer", vars(result))

    with ThreadPoolExecutor(CLIENTS) as clients:
        while True:
            try:
                number, function, arguments, keywords = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            if function is None:
                cancelled[number].set()
            else:
                cancelled[number] = threading.Event()
                clients.submit(answer, number, function, arguments, keywords)


if __name__ == "__main__":
    main(*sys.argv[1:])
