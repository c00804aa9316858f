"""Ask a Triton server for a picture: over HTTP, over gRPC, or as a stream that shows its progress.

    pip install "tritonclient[http,grpc]" numpy
    python triton_client.py "a red circle" --seed 7 --protocol grpc -o circle.png
    python triton_client.py "a red circle" --protocol stream       # Ctrl-C cancels it on the server

Only NumPy and NVIDIA's client are needed here; the functions below can be copied into an
application. The server asks for one tensor per input, ``[pictures, 1]``; what is left out has the
default of the bundle.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "stream": 8001}
NUMBERS = {"UINT64": np.uint64, "INT32": np.int32, "FP32": np.float32}

Settings = Mapping[str, Any]
OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Answer:
    """Pictures that came back.

    Attributes:
        images: uint8 ``[pictures, height, width, 3]``, or None if they were not asked for.
        pngs: the same as files, or none.
        settings: of each picture, everything that makes it again.
    """

    images: npt.NDArray[np.uint8] | None
    pngs: list[bytes]
    settings: list[dict[str, Any]]


def ask_http(
    address: str,
    request: Settings,
    *,
    model: str = "fam_diffusion",
    outputs: Sequence[str] = ("image", "settings"),
    timeout_s: float = 600.0,
) -> Answer:
    """One request, one answer, over HTTP."""
    import tritonclient.http as http

    with http.InferenceServerClient(address, network_timeout=timeout_s) as client:
        types = input_types(client.get_model_metadata(model))
        result = client.infer(
            model,
            input_tensors(http, types, request),
            outputs=[http.InferRequestedOutput(name) for name in outputs],
        )
    return _answer(result)


def ask_grpc(
    address: str,
    request: Settings,
    *,
    model: str = "fam_diffusion",
    outputs: Sequence[str] = ("image", "settings"),
    timeout_s: float = 600.0,
) -> Answer:
    """One request, one answer, over gRPC; when the time is up, the server stops working on it."""
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(address) as client:
        types = input_types(client.get_model_metadata(model, as_json=True))
        result = client.infer(
            model,
            input_tensors(grpc, types, request),
            outputs=[grpc.InferRequestedOutput(name) for name in outputs],
            client_timeout=timeout_s,
        )
    return _answer(result)


def ask_stream(
    address: str,
    request: Settings,
    *,
    model: str = "fam_diffusion_stream",
    outputs: Sequence[str] = ("image", "settings"),
    timeout_s: float = 600.0,
    on_progress: OnProgress | None = None,
) -> Answer:
    """One request, and an answer after each step, over gRPC; the last one holds the pictures.

    Whatever `on_progress` raises cancels the request: the server stops at its next step.

    Raises:
        TimeoutError: `timeout_s` passed without an answer, the first or the next; it is cancelled.
    """
    import tritonclient.grpc as grpc

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpc.InferenceServerClient(address) as client:
        types = input_types(client.get_model_metadata(model, as_json=True))
        client.start_stream(lambda result, error: answers.put((result, error)))
        finished = False
        try:
            client.async_stream_infer(
                model,
                input_tensors(grpc, types, request),
                outputs=[grpc.InferRequestedOutput(name) for name in (*outputs, "progress")],
            )
            last = _last_result(answers, timeout_s, on_progress)
            finished = True
        finally:
            client.stop_stream(cancel_requests=not finished)
    return _answer(last)


def _last_result(
    answers: queue.Queue[tuple[Any, Any]], timeout_s: float, on_progress: OnProgress | None
) -> Any:
    """The first result of a stream that holds no progress; each that does is told."""
    while True:
        try:
            result, error = answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no answer for {timeout_s:g} s") from None
        if error is not None:
            raise error
        progress = result.as_numpy("progress")
        if progress is None:
            return result
        if on_progress is not None:
            on_progress(json.loads(progress.item()))


def input_types(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Types of a model's inputs by name, from what the server says about it."""
    return {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}


def input_tensors(protocol: Any, types: Mapping[str, str], request: Settings) -> list[Any]:
    """A request as input tensors of one picture.

    Args:
        protocol: ``tritonclient.http`` or ``tritonclient.grpc``.
        types: of the model's inputs.
        request: values by input; None is left out.
    """
    tensors = []
    for name, value in request.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if types[name] == "BYTES":
            array = np.array([[text.encode() for text in values]], dtype=np.object_)
        else:
            array = np.array([values], dtype=NUMBERS[types[name]])
        tensor = protocol.InferInput(name, list(array.shape), types[name])
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _answer(result: Any) -> Answer:
    images, pngs, settings = (result.as_numpy(name) for name in ("image", "png", "settings"))
    return Answer(
        images,
        [] if pngs is None else list(pngs.ravel()),
        [] if settings is None else [json.loads(text) for text in settings.ravel()],
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(description="Ask a Triton server for a picture.")
    cli.add_argument("prompt")
    cli.add_argument("--negative-prompt")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--steps", type=int)
    cli.add_argument("--guidance-scale", type=float)
    cli.add_argument("--scale", type=float)
    cli.add_argument("--method")
    cli.add_argument("--protocol", choices=list(DEFAULT_PORTS), default="http")
    cli.add_argument("--address", metavar="HOST:PORT", help="default: this machine")
    cli.add_argument("--model", help="default: fam_diffusion, or fam_diffusion_stream")
    cli.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: 600")
    cli.add_argument("-o", "--output", type=Path, default=Path("out.png"))
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Ask for one picture and write it."""
    arguments = parser().parse_args(argv)
    keys = ("prompt", "negative_prompt", "seed", "steps", "guidance_scale", "scale", "method")
    request = {key: getattr(arguments, key) for key in keys}
    address = arguments.address or f"127.0.0.1:{DEFAULT_PORTS[arguments.protocol]}"
    options: dict[str, Any] = {"outputs": ("png", "settings"), "timeout_s": arguments.timeout}
    if arguments.model:
        options["model"] = arguments.model
    ask: Callable[..., Answer] = {"http": ask_http, "grpc": ask_grpc, "stream": ask_stream}[
        arguments.protocol
    ]
    if arguments.protocol == "stream":
        options["on_progress"] = _show
    try:
        _check_writable(arguments.output)  # a picture takes minutes
        answer = ask(address, request, **options)
        arguments.output.write_bytes(answer.pngs[0])
    except KeyboardInterrupt:
        print("\ncancelled", file=sys.stderr)
        return 130
    except Exception as error:  # the client's own class, without which this file imports
        print(f"error: {_described(error)}", file=sys.stderr)
        return 1
    size = f"{answer.settings[0]['width']}x{answer.settings[0]['height']}"
    print(f"{arguments.output}  {size}  seed {answer.settings[0]['seed']}")
    return 0


def _check_writable(path: Path) -> None:
    """Raises the OSError that writing the file would; what is there stays as it is."""
    existed = path.exists()
    path.open("ab").close()
    if not existed:
        path.unlink()


def _described(error: Exception) -> str:
    # The client says RuntimeError where it is installed without this protocol.
    if isinstance(error, ImportError) or isinstance(error.__cause__, ImportError):
        return f'{error}; pip install "fam-diffusion[triton]"'
    return str(error) or type(error).__name__


def _show(progress: dict[str, Any]) -> None:
    stage, step, steps = progress["stage"], progress["step"], progress["steps"]
    end = "\n" if step == steps else ""
    print(f"\r{stage} {step}/{steps}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
