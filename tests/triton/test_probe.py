"""`fam-triton-probe` against a small server that speaks the protocol, and can die."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from fam_runtime.cli.triton_probe import main, options_from, parser
from fam_runtime.triton.endpoint import Endpoint, NoAnswer
from fam_runtime.triton.probe import METRICS_TIMEOUT_S, ProbeResult, probe, recover

MODEL = "fam_diffusion"
SHORT = "--timeout=1"
"""Where the time runs out by design; elsewhere a slow machine has enough of it."""

DEAD = (500, f"Stub process '{MODEL}_0_0' is not healthy.")
FULL = (503, "[request id: <id_unknown>] Exceeds maximum queue size")


def png(height: int = 64, width: int = 96) -> bytes:
    # Noise: the bytes of a stream's JSON are only right if they survive all 256 values.
    file = io.BytesIO()
    Image.effect_noise((width, height), 99).convert("RGB").save(file, "PNG")
    return file.getvalue()


class FakeTriton(ThreadingHTTPServer):
    """A server whose model answers, fails, says nothing or is refused.

    Attributes:
        error: status and message of every canary, None for a picture.
        picture: what comes out.
        silent: canaries get no answer; mute: nor does who looks at the metrics.
        moving: every look at the metrics finds one step more.
        pending: requests that wait, in the metrics.
        explicit: models may be loaded; loading mends the model.
        canaries: what was asked; controls: what was loaded and unloaded.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.error: tuple[int, str] | None = None
        self.picture = png()
        self.silent = self.mute = self.moving = self.explicit = False
        self.steps = self.pending = 0
        self.canaries: list[dict] = []
        self.controls: list[str] = []
        self.end = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def probe(self, *options: str) -> ProbeResult:
        arguments = parser().parse_args(self.arguments(*options))
        return (recover if arguments.recover else probe)(options_from(arguments))

    def arguments(self, *options: str) -> list[str]:
        return ["--url", self.url, "--metrics-url", f"{self.url}/metrics", *options]

    def metrics(self) -> str:
        self.steps += self.moving
        return (
            "# TYPE fam_steps_total counter\n"
            f'fam_steps_total{{model="{MODEL}",version="1"}} {self.steps}\n'
            f'fam_steps_total{{model="other",version="1"}} {time.monotonic()}\n'
            f'nv_inference_pending_request_count{{model="{MODEL}",version="1"}} {self.pending}\n'
        )


class Handler(BaseHTTPRequestHandler):
    server: FakeTriton

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        if self.path == "/metrics" and self.server.mute:
            self.server.end.wait(20)
        elif self.path == "/metrics":
            self.reply(200, self.server.metrics().encode())
        else:  # ready, dead or not, until it is unloaded: as Triton says it
            unloaded = self.server.controls[-1:] == ["unload"]
            self.reply(400 if unloaded else 200, b"")

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/v2/repository/"):
            return self.control()
        self.server.canaries.append(document)
        if self.server.silent:
            self.server.end.wait(20)
            return None
        stream = self.path.endswith("/generate_stream")
        if self.server.error is not None:
            status, message = self.server.error
            text = json.dumps({"error": message}).encode()
            # The status of a stream's failed model is 400, whatever happened to it.
            return self.events(text, status=400) if stream else self.reply(status, text)
        if stream:
            return self.events(b'{"progress":"{\\"step\\": 1}"}', streamed(self.server.picture))
        element = struct.pack("<I", len(self.server.picture)) + self.server.picture
        output = {"name": "png", "parameters": {"binary_data_size": len(element)}}
        head = json.dumps({"outputs": [output]}).encode()
        lengths = {"Inference-Header-Content-Length": str(len(head))}
        return self.reply(200, head + element, **lengths)

    def control(self) -> None:
        if not self.server.explicit:
            refusal = {"error": "explicit model load / unload is not allowed"}
            return self.reply(503, json.dumps(refusal).encode())
        self.server.controls.append(self.path.rpartition("/")[2])
        if self.server.controls[-1] == "load":
            self.server.error, self.server.silent = None, False
        return self.reply(200, b"")

    def events(self, *events: bytes, status: int = 200) -> None:
        body = b"".join(b"data: " + event + b"\n\n" for event in events)
        self.reply(status, body, **{"Content-Type": "text/event-stream; charset=utf-8"})

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def streamed(picture: bytes) -> bytes:
    """A last event as Triton writes it: control characters escaped, all other bytes as they are."""
    text = json.dumps(picture.decode("latin-1"), ensure_ascii=False).encode("latin-1")
    return b'{"image":[1,2,255],"model_name":"x","png":' + text + b',"settings":"{}"}'


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.end.set()
        running.shutdown()
        thread.join()


def test_a_picture_is_life(server, capsys):
    assert main(server.arguments("--size", "128x256", "--steps", "2")) == 0
    assert main(server.arguments("--scale", "2x4")) == 0
    assert "fam_diffusion: a picture of 64x96 pixels in " in capsys.readouterr().out
    first, second = ({i["name"]: i for i in c["inputs"]} for c in server.canaries)
    assert first["seed"]["data"] != second["seed"]["data"], "a cache would answer"
    assert first["prompt"]["datatype"] == "BYTES"
    assert (first["height"]["data"], first["width"]["data"]) == ([128], [256])
    assert (first["steps"]["data"], second["steps"]["data"]) == ([2], [1])
    assert (second["scale"]["shape"], second["scale"]["data"]) == ([1, 2], [2.0, 4.0])
    assert [output["name"] for output in server.canaries[0]["outputs"]] == ["png"]
    assert 0 < server.canaries[0]["parameters"]["timeout"] <= 60e6, "microseconds"


def test_a_model_whose_process_died_is_dead(server, capsys):
    server.error = DEAD
    assert main(server.arguments()) == 9
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not healthy" in line and "restart the server" in line and "--recover" in line
    assert main(server.arguments("--live")) == 9


@pytest.mark.parametrize("mode", [(), ("--live",)], ids=["plain", "live"])
@pytest.mark.parametrize("moving", [True, False], ids=["moving", "standing"])
@pytest.mark.parametrize("why", ["silent", "full", "unavailable"])
def test_a_busy_server_is_not_a_stuck_one(server, why, moving, mode):
    server.silent, server.moving = why == "silent", moving
    server.error = {"full": (500, FULL[1]), "unavailable": (503, "try later")}.get(why)
    result = server.probe(SHORT, *mode)
    assert (result.verdict, result.alive) == (("busy", True) if moving else ("stuck", False))
    if not moving:
        assert "no step was made" in str(result.error) and "longer --timeout" in str(result.error)
        assert result.error.exit_code == 10


def test_a_server_at_work_is_asked_for_nothing(server):
    server.moving = True
    assert server.probe("--live").verdict == "busy"
    assert server.canaries == []
    server.moving = False
    assert server.probe("--live").verdict == "picture"


def test_requests_that_an_instance_never_gave_back_are_no_death(server):
    server.pending = 3
    assert server.probe("--live", "--timeout=4").verdict == "picture"


def test_without_metrics_silence_cannot_be_told_from_work(server, capsys):
    server.silent = server.moving = True
    assert main(server.arguments("--metrics-url=none", "--timeout=0.3")) == 10
    assert "give a --metrics-url" in capsys.readouterr().err


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}_stream"])
@pytest.mark.parametrize(
    "picture",
    [b"", b"GIF89a", png()[:-1], png()[:-100], png().replace(b"IDAT", b"IDAU"), png()[:8]],
    ids=["empty", "other", "one byte short", "cut", "altered", "signature only"],
)
def test_an_answer_without_a_picture_is_death(server, model, picture):
    server.picture = picture
    result = server.probe(f"--model={model}")
    assert result.verdict == "dead"
    assert "answers without a picture" in str(result.error) and "numpy<2" in str(result.error)


def test_a_picture_without_pixels_is_none(server):
    header = bytes(4) + png()[20:33]
    server.picture = png().replace(png()[16:33], header)
    assert server.probe().verdict == "dead"


def test_a_decoupled_model_is_asked_for_events(server):
    model = f"--model={MODEL}_stream"
    assert server.probe(model, "--scale=2").verdict == "picture"
    assert server.canaries[0]["scale"] == 2.0 and server.canaries[0]["steps"] == 1
    server.error = DEAD
    assert server.probe(model).verdict == "dead"
    server.error = FULL
    assert server.probe(model, SHORT).verdict == "stuck"


def test_a_canary_that_cannot_be_used_is_no_death(server, capsys):
    server.error, server.explicit = (400, "the bundle has no target for scale 7"), True
    assert main(server.arguments("--scale=7", "--recover")) == 2
    assert "no target for scale 7" in capsys.readouterr().err
    assert server.controls == []


def test_recovery_loads_the_model_again(server, capsys):
    server.explicit, server.error = True, DEAD
    assert main(server.arguments("--recover")) == 0
    assert "after it was loaded again" in capsys.readouterr().out
    server.silent = True
    assert server.probe("--recover", "--timeout=3").verdict == "picture"
    assert server.controls == ["unload", "load"] * 2
    assert server.probe("--recover").alive
    assert len(server.controls) == 4, "a model that is alive is left alone"


def test_recovery_needs_a_server_that_loads_models(server):
    server.error = DEAD
    result = server.probe("--recover")
    assert result.verdict == "dead"
    assert "cannot be loaded again" in result.what and "--model-control-mode" in str(result.error)


def test_nothing_that_listens_is_death(server, capsys):
    with FakeTriton() as closed:
        url = closed.url
    assert main(["--url", url]) == 9
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--url", "--metrics-url"])
@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1", "127.0.0.1:8000", "http://a:b@h", "http://h:x", ""],
)
def test_only_plain_addresses_of_servers_are_taken(option, url, capsys):
    assert main([option, url]) == 2
    assert "the URL cannot be used" in capsys.readouterr().err


def test_the_deadline_is_for_the_whole_answer(server):
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.end.wait(0.05):
            handler.wfile.write(b"data: {}\n\n")

    class Dripping(Handler):
        def do_POST(self) -> None:
            drip(self)

    server.RequestHandlerClass = Dripping
    started = time.monotonic()
    assert server.probe("--timeout=0.5").verdict == "stuck"
    assert time.monotonic() - started < 0.5 + METRICS_TIMEOUT_S


def test_metrics_that_hang_leave_time_for_the_picture(server):
    server.mute = True
    assert server.probe("--timeout=4").verdict == "picture"
    server.silent, started = True, time.monotonic()
    assert server.probe(SHORT).verdict == "stuck"
    assert time.monotonic() - started < METRICS_TIMEOUT_S, "no further look"


def test_metrics_that_begin_to_hang_cost_no_more_than_the_probe_says(server, monkeypatch):
    """The first look is answered, and none after it."""
    monkeypatch.setattr("fam_runtime.triton.probe.METRICS_TIMEOUT_S", 3.0)
    look = server.metrics

    def once() -> str:
        server.mute = True
        return look()

    server.metrics = once
    assert server.probe("--timeout=2", "--live").verdict == "picture"
    server.mute, server.silent, started = False, True, time.monotonic()
    assert server.probe("--timeout=0.5", "--live").verdict == "stuck"
    assert time.monotonic() - started < 0.5 + 3 + 1


def test_a_host_that_does_not_answer_is_no_dead_server(capsys):
    """Its queue of connections is full, so that connecting takes for ever."""
    with socket.socket() as deaf, ExitStack() as opened:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
            Endpoint.from_url(url).ask("GET", "/v2", time.monotonic() + 0.2)
        assert main(["--url", url, "--metrics-url=none", "--timeout=0.2"]) == 10
    assert "no answer within" in capsys.readouterr().err
