"""Whether a served model still makes pictures: a canary request, and the steps counted meanwhile.

Triton goes on answering "ready" after the process behind a Python model has died, and a long
request may be ahead of the canary. So only a picture, or steps that move, count as life. The
standard library is enough to run this, inside the server's container or elsewhere.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from fam_runtime.errors import FamError, InvalidRequest
from fam_runtime.triton.endpoint import RESTART, Answer, Endpoint, NoAnswer, ServerDead
from fam_runtime.triton.interface import (
    DEFAULT_MODEL_NAME,
    INPUTS,
    PNG,
    PROMPT,
    SEED,
    STEPS,
    STEPS_METRIC,
    STREAM_SUFFIX,
)

Verdict = Literal["picture", "busy", "stuck", "dead", "refused"]

METRICS_PORT = 8002
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_LOAD_TIMEOUT_S = 900.0

METRICS_TIMEOUT_S = 5.0
"""For one look at the metrics: a probe ends at most this long after its timeout."""

_CANARY_PROMPT = "a canary"
_SEED_BITS = 63
_PENDING_METRIC = "nv_inference_pending_request_count"
_LOOK_EVERY_S = 0.5
_WATCH_IDLE_S = 2.0
_UNLOAD_TIMEOUT_S = 10.0

_RECOVERY = f"{RESTART}; under --model-control-mode=explicit, --recover loads the model again"

_QUEUE_REFUSAL = re.compile(r"maximum queue size|timeout expired", re.IGNORECASE)
_SAMPLE = re.compile(r"^(\w+)\{(.*)\}\s+(\S+)", re.MULTILINE)
_IMAGE_FIELD = re.compile(rb'"image":\[[\d,\s]*\]')
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ServerStuck(FamError):
    """Neither a picture nor a step came within the timeout."""

    exit_code: ClassVar[int] = 10


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed, and how patiently.

    Attributes:
        server: the HTTP port.
        metrics: the page with the counters; None does without.
        model: its name; a name that ends in ``_stream`` is asked over ``generate_stream``.
        timeout_s: for the picture; longer than the longest step and the longest tile.
        live: look for moving steps first, and ask for a picture only where nothing moves.
        load_timeout_s: for loading the model again, warm-up included.
        headers: for every request to the server.
        inputs: of the canary besides prompt, seed and steps: a tuple of values for each name.
        steps: of the canary.
    """

    server: Endpoint
    metrics: Endpoint | None
    model: str = DEFAULT_MODEL_NAME
    timeout_s: float = DEFAULT_TIMEOUT_S
    live: bool = False
    load_timeout_s: float = DEFAULT_LOAD_TIMEOUT_S
    headers: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    steps: int = 1


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        verdict: ``picture`` and ``busy`` are alive; ``refused`` is a canary that cannot be used.
        what: one line for people.
        error: what to do about it, None for a server that is alive.
    """

    verdict: Verdict
    what: str
    error: FamError | None = None

    @property
    def alive(self) -> bool:
        """Whether the server is to be left alone."""
        return self.error is None


@dataclass(frozen=True)
class _Counts:
    """Denoising steps since the server started, and requests that wait in the model's queue."""

    steps: float
    pending: float


def probe(options: ProbeOptions) -> ProbeResult:
    """Ask for a picture; where none comes, see whether steps were made meanwhile.

    Ends within `timeout_s` + :data:`METRICS_TIMEOUT_S`.
    """
    started = time.monotonic()
    try:
        verdict, what = _probe(options, started)
    except (ServerDead, ServerStuck, InvalidRequest) as error:
        return _failed(error)
    seconds = time.monotonic() - started
    return ProbeResult(verdict, f"{options.model}: {what} in {seconds:.1f} s")


def recover(options: ProbeOptions) -> ProbeResult:
    """Probe; a model that is dead or stuck is unloaded, loaded again and probed once more.

    For servers under ``--model-control-mode=explicit`` without an orchestrator that restarts them.
    What a stuck instance held (shared memory, device memory) may stay held until a restart.
    """
    first = probe(options)
    if first.alive or first.verdict == "refused":
        return first
    try:
        _load_again(options)
    except (ServerDead, ServerStuck, InvalidRequest) as error:
        return _failed(error)
    again = probe(replace(options, live=False))
    if not again.alive:
        return again
    return replace(again, what=f"{again.what}, after it was loaded again ({first.what})")


def _failed(error: FamError) -> ProbeResult:
    verdict: Verdict = "refused"
    if isinstance(error, (ServerDead, ServerStuck)):
        verdict = "dead" if isinstance(error, ServerDead) else "stuck"
    return ProbeResult(verdict, error.what, error)


def _probe(options: ProbeOptions, started: float) -> tuple[Verdict, str]:
    deadline = started + options.timeout_s
    # A metrics page that hangs leaves the other half to the picture.
    half = started + options.timeout_s / 2
    before = _counts(options, half)
    if options.live and before is not None:
        # Behind a queue a canary would only make it longer. Not for ever, though: requests of an
        # instance that was given up on stay in this gauge.
        until = half if before.pending else min(half, started + _WATCH_IDLE_S)
        if steps := _watch(options, before, until, half):
            return "busy", _busy(steps)
    try:
        width, height = _canary(options, deadline)
    except NoAnswer as reason:
        if steps := _watch(options, before, deadline, deadline + METRICS_TIMEOUT_S):
            return "busy", _busy(steps)
        raise _stuck(options, before, str(reason)) from None
    return "picture", f"a picture of {height}x{width} pixels"


def _busy(steps: float) -> str:
    return f"busy and alive: {steps:g} step" + ("" if steps == 1 else "s")


def _stuck(options: ProbeOptions, before: _Counts | None, reason: str) -> ServerStuck:
    if before is None:
        what = "no picture came, and no metrics say whether the model works on another one"
        fix = f"give a --metrics-url that has {STEPS_METRIC}, or a longer --timeout; or {_RECOVERY}"
    else:
        what = f"the model {options.model} is stuck: no picture came and no step was made"
        fix = f"{_RECOVERY}; if a single step takes longer, give a longer --timeout"
    return ServerStuck(what, got=reason, expected=f"either within {options.timeout_s:g} s", fix=fix)


def _watch(options: ProbeOptions, before: _Counts | None, until: float, end: float) -> float:
    """Steps made since `before`, looked for until some are found or the time is over.

    At least one look is taken, and none lasts beyond `end`. A model that was loaded again in
    between counts from 0.
    """
    while before is not None:
        now = _counts(options, end)
        if now is not None and now.steps != before.steps:
            return max(now.steps - before.steps, 1)
        if time.monotonic() >= until:
            break
        time.sleep(max(0.0, min(_LOOK_EVERY_S, until - time.monotonic())))
    return 0


def _counts(options: ProbeOptions, end: float) -> _Counts | None:
    """The model's counters; None where they cannot be read by `end`."""
    if options.metrics is None:
        return None
    try:
        look = min(time.monotonic() + METRICS_TIMEOUT_S, end)
        answer = options.metrics.ask("GET", "", look)
    except (ServerDead, NoAnswer):
        return None
    found: dict[str, float | None] = {STEPS_METRIC: None, _PENDING_METRIC: None}
    for name, labels, value in _SAMPLE.findall(answer.body.decode(errors="replace")):
        if name in found and f',model="{options.model}",' in f",{labels},":
            found[name] = (found[name] or 0.0) + _number(value)
    steps, pending = found[STEPS_METRIC], found[_PENDING_METRIC]
    return None if steps is None else _Counts(steps, pending or 0.0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _canary(options: ProbeOptions, deadline: float) -> tuple[int, int]:
    """Width and height of a picture that the server makes now.

    Raises:
        ServerDead: it does not.
        InvalidRequest: it refuses this canary.
        NoAnswer: it says nothing in time, or refuses every request now.
    """
    stream = options.model.endswith(STREAM_SUFFIX)
    verb, read = ("generate_stream", _png_of_events) if stream else ("infer", _png_of_infer)
    document = _canary_document(options, deadline, stream=stream)
    path = f"{_model_path(options)}/{verb}"
    answer = options.server.ask("POST", path, deadline, document, options.headers)
    events = "event-stream" in answer.headers.get("Content-Type", "")
    message = _error_text(answer.body) if events or answer.status != 200 else ""
    if message or answer.status != 200:
        raise _refusal(options, answer.status, message or "no message", events=events)
    try:
        return _size_of_png(read(answer))
    except (ValueError, KeyError, IndexError, TypeError, StopIteration, struct.error) as error:
        raise ServerDead(
            f"the model {options.model} answers without a picture",
            got=str(error) or type(error).__name__,
            expected="a PNG file",
            fix="look into the server's log; empty outputs come from a NumPy 2 that the server's "
            'Python backend does not know yet: install "numpy<2" there and restart',
        ) from None


def _canary_document(options: ProbeOptions, deadline: float, *, stream: bool) -> dict[str, Any]:
    """The request, for ``generate_stream`` or for ``infer``."""
    # A picture with a seed that was used before may come out of a cache.
    values: dict[str, tuple[Any, ...]] = {
        PROMPT: (_CANARY_PROMPT,),
        SEED: (secrets.randbits(_SEED_BITS),),
        STEPS: (options.steps,),
        **options.inputs,
    }
    # Nobody waits for a canary after its probe. Triton takes it out of the queue by this time only
    # if the model's queue policy has a default timeout above it, as `fam-triton --queue-size` and
    # `--queue-timeout` write one. Without a policy it ignores this, and the canary is made late.
    timeout_us = max(1, int((deadline - time.monotonic()) * 1e6))
    if stream:
        single = {name: v[0] if len(v) == 1 else list(v) for name, v in values.items()}
        return {**single, "timeout": timeout_us}
    types = {tensor.name: tensor.type.replace("STRING", "BYTES") for tensor in INPUTS}
    return {
        "parameters": {"timeout": timeout_us},
        "inputs": [
            {"name": name, "shape": [1, len(v)], "datatype": types[name], "data": list(v)}
            for name, v in values.items()
        ],
        "outputs": [{"name": PNG, "parameters": {"binary_data": True}}],
    }


def _refusal(options: ProbeOptions, status: int, message: str, *, events: bool) -> Exception:
    """What an error of the server means. Streams say 400 also where the process has died."""
    if status == 503 or _QUEUE_REFUSAL.search(message):
        return NoAnswer(message)
    if status in (400, 401, 403, 501) and not events:
        return InvalidRequest(
            f"the server refuses the canary for the model {options.model}",
            got=message,
            expected="a picture",
            fix="check --model, --scale, --size, --steps and --header",
        )
    what = "is not served" if status == 404 else "cannot make a picture"
    return ServerDead(
        f"the model {options.model} {what}",
        got=message,
        expected="a picture",
        fix=f"check --model; {_RECOVERY}" if status == 404 else _RECOVERY,
    )


def _png_of_infer(answer: Answer) -> bytes:
    """The only output: a BYTES element, which is its length and its bytes, behind the JSON."""
    data = answer.body[int(answer.headers["Inference-Header-Content-Length"]) :]
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length]


def _png_of_events(answer: Answer) -> bytes:
    """The picture in the last event of a stream, whose JSON strings hold raw bytes."""
    event = next(e for e in reversed(answer.body.split(b"\n\n")) if b'"png":' in e)
    slim = _IMAGE_FIELD.sub(b'"image":[]', event).partition(b"data:")[2]
    png: str = json.loads(slim.decode("latin-1"), strict=False)[PNG]
    return png.encode("latin-1")


def _size_of_png(png: bytes) -> tuple[int, int]:
    """Width and height of a whole PNG file: every chunk is there and has its checksum.

    Raises:
        ValueError: it is no such file.
    """
    if not png.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{len(png)} bytes that are no PNG file")
    start, kind, size = len(_PNG_SIGNATURE), b"", (0, 0)
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, start)
        end = start + 8 + length
        (checksum,) = struct.unpack_from(">I", png, end)
        if checksum != zlib.crc32(png[start + 4 : end]):
            raise ValueError("a damaged PNG file")
        if kind == b"IHDR":
            size = struct.unpack_from(">II", png, start + 8)
        start = end + 4
    if 0 in size:
        raise ValueError(f"a PNG file of {size[1]}x{size[0]} pixels")
    return size


def _error_text(body: bytes) -> str:
    """The message of an error, of a plain answer or of the last event of a stream; or nothing."""
    last = body.strip().rpartition(b"\n\n")[2][:10_000].removeprefix(b"data:")
    try:
        document = json.loads(last)
    except ValueError:  # also for bytes that are no text
        return ""
    return str(document.get("error", "")) if isinstance(document, dict) else ""


def _load_again(options: ProbeOptions) -> None:
    model = f"/v2/repository/models/{quote(options.model, safe='')}"
    _control(options, f"{model}/unload", METRICS_TIMEOUT_S)
    # An instance whose process has died may stay "unloading" for good; loading works all the same.
    given_up = time.monotonic() + _UNLOAD_TIMEOUT_S
    ready = f"{_model_path(options)}/ready"
    while time.monotonic() < given_up:
        try:
            answer = options.server.ask("GET", ready, given_up, headers=options.headers)
        except NoAnswer:
            break
        if answer.status != 200:
            break
        time.sleep(_LOOK_EVERY_S)
    _control(options, f"{model}/load", options.load_timeout_s)


def _control(options: ProbeOptions, path: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    what = f"the model {options.model} cannot be loaded again"
    try:
        answer = options.server.ask("POST", path, deadline, {}, options.headers)
    except NoAnswer as reason:
        fix = f"{RESTART}, or give a longer --load-timeout"
        raise ServerStuck(what, got=str(reason), fix=fix) from None
    if answer.status != 200:
        raise ServerDead(
            what,
            got=_error_text(answer.body) or f"status {answer.status}",
            expected="a server under --model-control-mode=explicit",
            fix=RESTART,
        )


def _model_path(options: ProbeOptions) -> str:
    return f"/v2/models/{quote(options.model, safe='')}"
