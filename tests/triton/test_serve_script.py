"""A real server as `runtime/examples/kubernetes/serve.sh` starts it: its locks, probes, events."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fam_bench.tritonserver import ROOT, TritonEnvironment, TritonServer
from fam_runtime.cli.triton_probe import main as probe
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from tests.runtime.fake_bundle import write_bundle
from tests.triton.clients import PROTOCOLS, ClientProcess, ServedError

SERVE = ROOT / "runtime/examples/kubernetes/serve.sh"
MODEL = "fam_diffusion"
REQUEST: dict[str, Any] = {"prompt": "a circle", "seed": 3, "steps": 2}


@pytest.fixture(scope="module")
def server(
    triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """The harness's own addresses and names come after those of the script, and so count."""
    folder = tmp_path_factory.mktemp("serve")
    bundle = write_bundle(folder / "bundle")
    write_repository(bundle, folder / "models", RepositoryOptions(variant="both", threads=1))
    programs = (triton_environment.tritonserver.parent, triton_environment.bin, "/usr/bin", "/bin")
    variables = {
        "PATH": ":".join(map(str, programs)),
        "FAM_SHM_PREFIX": f"fam_local_{secrets.token_hex(6)}_",
    }
    by_script = replace(triton_environment, tritonserver=SERVE)
    with TritonServer(
        by_script, folder / "models", folder, model_control="none", variables=variables
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(triton_environment: TritonEnvironment) -> Iterator[ClientProcess]:
    process = ClientProcess(triton_environment.bin / "python")
    yield process
    process.close()


def probe_arguments(server: TritonServer, *options: str) -> list[str]:
    metrics = f"http://127.0.0.1:{server.ports.metrics}/metrics"
    return ["--url", f"http://{server.http_address}", "--metrics-url", metrics, *options]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_get_pictures(server: TritonServer, client: ClientProcess, protocol: str) -> None:
    assert client.ask(server, REQUEST, protocol=protocol).images is not None


def test_everything_else_is_locked(server: TritonServer, client: ClientProcess) -> None:
    locked: tuple[tuple[str, object], ...] = (
        (f"/v2/repository/models/{MODEL}/load", {}),
        (f"/v2/repository/models/{MODEL}/unload", {}),
        ("/v2/repository/index", {}),
        (f"/v2/models/{MODEL}/config", None),
        (f"/v2/models/{MODEL}/stats", None),
        ("/v2/systemsharedmemory/status", None),
        ("/v2/trace/setting", None),
        ("/v2/logging", {"log_file": "x"}),
    )
    for path, document in locked:
        assert server.request(path, document)[0] == 403, path
    for path in ("/v2", "/v2/health/ready", f"/v2/models/{MODEL}"):
        assert server.request(path)[0] == 200, path
    with pytest.raises(ServedError, match="restricted") as caught:
        client.load(server, MODEL)
    assert caught.value.status == "StatusCode.UNAVAILABLE"


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}_stream"])
@pytest.mark.parametrize("mode", [(), ("--live",)], ids=["picture", "live"])
def test_both_models_answer_the_probe(
    server: TritonServer, capsys: pytest.CaptureFixture[str], model: str, mode: tuple[str, ...]
) -> None:
    assert probe(probe_arguments(server, "--model", model, *mode)) == 0
    assert f"{model}: a picture of " in capsys.readouterr().out


def test_server_sent_events_tell_the_progress(server: TritonServer) -> None:
    """The events before the last are JSON in UTF-8; the last one holds the bytes of a PNG file."""
    url = f"http://{server.http_address}/v2/models/{MODEL}_stream/generate_stream"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, json.dumps(REQUEST).encode()), timeout=60) as got:
        assert got.headers["Content-Type"].startswith("text/event-stream")
        *events, last, rest = got.read().split(b"\n\n")
    assert rest == b""
    steps = [json.loads(json.loads(event.removeprefix(b"data: "))["progress"]) for event in events]
    stages = {step["stage"] for step in steps}
    assert "native" in stages and len(stages) == 3
    assert [step["step"] for step in steps if step["stage"] == "native"] == [1, 2]
    assert all(step.keys() >= {"picture", "stage", "step", "steps"} for step in steps)
    text = last.removeprefix(b"data: ")
    with pytest.raises(UnicodeDecodeError):
        text.decode()
    picture = json.loads(text.decode("latin-1"), strict=False)
    assert picture["png"].encode("latin-1").startswith(b"\x89PNG\r\n\x1a\n")
    assert json.loads(picture["settings"])["seed"] == REQUEST["seed"]
