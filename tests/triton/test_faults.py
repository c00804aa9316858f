"""A real server when things go wrong: cancelled requests, dead stubs, damaged files, the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_bench.tritonserver import TritonEnvironment, TritonServer, wait_until
from fam_runtime import FamPipeline
from fam_runtime.cli.triton_probe import main as probe
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.heavy_bundle import write_heavy_bundle
from tests.triton.clients import ClientProcess, ServedError
from tests.triton.conftest import StartTriton

REQUEST: dict[str, Any] = {"prompt": "a circle", "seed": 3, "steps": 4}
LAYOUTS = {"whole": "pipeline", "split": "engines"}
MANY_STEPS = 60


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "fake")


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layouts of a bundle whose steps take no time, and of one whose steps take some."""
    heavy = write_heavy_bundle(tmp_path_factory.mktemp("bundles") / "heavy")
    root = tmp_path_factory.mktemp("repository") / "models"
    for name, layout in LAYOUTS.items():
        for prefix, source in (("", bundle), ("slow_", heavy)):
            options = RepositoryOptions(
                layout=layout,  # type: ignore[arg-type]
                variant="both" if prefix else "plain",
                name=prefix + name,
                threads=1,
                warmup=False,
            )
            write_repository(source, root, options)
    return root


@pytest.fixture(scope="module")
def server(start_triton: StartTriton, repository: Path) -> TritonServer:
    return start_triton(repository, exit_timeout_s=3)


@pytest.fixture(scope="module")
def client(triton_environment: TritonEnvironment) -> Iterator[ClientProcess]:
    process = ClientProcess(triton_environment.bin / "python")
    yield process
    process.close()


@pytest.fixture(scope="module")
def pixels(bundle: Path) -> Any:
    """What the runtime makes of the request, in this process."""
    with FamPipeline.from_pretrained(bundle, progress=False) as pipe:
        image = pipe("a circle", seed=3, num_inference_steps=4).images[0]
        return np.asarray(image)[None]


def probe_arguments(server: TritonServer, model: str) -> list[str]:
    urls = ["--url", f"http://{server.http_address}"]
    metrics = ["--metrics-url", f"http://127.0.0.1:{server.ports.metrics}/metrics"]
    return [*urls, *metrics, "--model", model, "--timeout", "60"]


def cancel(server: TritonServer, client: ClientProcess, model: str, protocol: str) -> None:
    """Ask for many steps, and think better of it when some have been made."""
    request = {**REQUEST, "steps": MANY_STEPS}
    if protocol == "stream":
        with pytest.raises(ServedError):
            client.ask(server, request, protocol=protocol, model=model, stop_after=3)
        return
    before = server.metric("fam_steps_total", model=model)
    future, cancel_it = client.submit_until(server, request, model=model)
    assert wait_until(lambda: server.metric("fam_steps_total", model=model) >= before + 2, 60)
    cancel_it()
    with pytest.raises(ServedError) as caught:
        future.result(60)
    assert caught.value.status == "StatusCode.CANCELLED"


@pytest.mark.parametrize("protocol", ["grpc", "stream"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cancelled_request_stops_within_a_step(
    server: TritonServer, client: ClientProcess, layout: str, protocol: str
) -> None:
    model = f"slow_{layout}"
    name = f"{model}_stream" if protocol == "stream" else model

    def steps() -> float:
        return server.metric("fam_steps_total", model=name)

    client.ask(server, {**REQUEST, "steps": 1}, protocol=protocol, model=model)  # loads the graphs
    cancelled = server.metric("fam_cancelled_total", model=name)
    before = steps()
    cancel(server, client, model, protocol)
    at_cancel = steps()
    assert wait_until(lambda: server.metric("fam_cancelled_total", model=name) == cancelled + 1, 60)
    # One step was under way, and one more may have begun before the word of it arrived.
    assert steps() - at_cancel <= 2
    assert 2 <= steps() - before < MANY_STEPS
    answer = client.ask(server, {**REQUEST, "steps": 1}, protocol=protocol, model=model)
    assert answer.images is not None


def test_a_server_at_work_is_alive_without_a_picture(
    server: TritonServer, client: ClientProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(what: str) -> float:
        return server.metric(f"fam_{what}_total", model="slow_whole")

    steps, pictures = made("steps"), made("pictures")
    request = {**REQUEST, "steps": MANY_STEPS}
    future, cancel_it = client.submit_until(server, request, model="slow_whole")
    assert wait_until(lambda: made("steps") > steps, 60)
    assert probe([*probe_arguments(server, "slow_whole"), "--live"]) == 0
    assert "busy and alive" in capsys.readouterr().out
    cancel_it()
    with pytest.raises(ServedError):
        future.result(60)
    assert made("pictures") == pictures, "the probe asked for one"


def shared_memory_of(pid: int | None) -> set[Path]:
    """The files of shared memory that a process maps now, whatever they are called."""
    lines = Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines()
    return {Path(line[line.index("/dev/shm/") :]) for line in lines if "/dev/shm/" in line}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_new_version_is_refused_and_the_old_one_serves(
    server: TritonServer, client: ClientProcess, pixels: Any, bundle: Path, layout: str
) -> None:
    version = RepositoryOptions(
        layout=LAYOUTS[layout],  # type: ignore[arg-type]
        name=layout,
        version=2,
        threads=1,
        warmup=False,
    )
    written = write_repository(bundle, server.repository, version)
    model = layout if layout == "whole" else f"{layout}_unet_native"
    graph = server.repository / model / "2/bundle/unet/native.onnx"
    try:
        graph.write_bytes(graph.read_bytes()[:-10])
        status, text = server.load(model)
        assert status >= 400
        assert "unet/native.onnx" in text
        answer = client.ask(server, REQUEST, model=layout)
        np.testing.assert_array_equal(answer.images, pixels)
        document = json.loads(server.request(f"/v2/models/{model}")[1])
        assert document["versions"] == ["1"]
    finally:
        for name in written.models:  # other tests start servers on the same repository
            shutil.rmtree(server.repository / name / "2")


def test_the_probe_finds_a_dead_stub_and_recovers_it(
    start_triton: StartTriton,
    repository: Path,
    client: ClientProcess,
    pixels: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Triton goes on saying that all is well."""
    server = start_triton(repository, load=["whole"], exit_timeout_s=1)
    arguments = probe_arguments(server, "whole")
    assert probe(arguments) == 0
    [stub] = server.stub_pids("whole")
    os.kill(stub, signal.SIGKILL)
    assert wait_until(lambda: not server.stub_pids("whole"), 30)
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/whole/ready"):
        assert server.request(path)[0] == 200
    capsys.readouterr()
    assert probe(arguments) != 0
    assert "not healthy" in capsys.readouterr().err
    assert probe([*arguments, "--recover"]) == 0
    np.testing.assert_array_equal(client.ask(server, REQUEST, model="whole").images, pixels)
    server.close()
    assert server.leftovers() == []


def test_the_server_ends_without_a_trace(
    start_triton: StartTriton, repository: Path, client: ClientProcess
) -> None:
    """Both layouts have answered; one request is still under way."""
    light = [folder.name for folder in repository.iterdir() if not folder.name.startswith("slow_")]
    server = start_triton(repository, load=[*light, "slow_whole"], exit_timeout_s=90)
    for layout in LAYOUTS:
        client.ask(server, REQUEST, model=layout)
    running = client.submit(server, {**REQUEST, "steps": 8}, protocol="grpc", model="slow_whole")
    assert wait_until(lambda: server.metric("fam_steps_total", model="slow_whole") > 1, 60)
    stubs = server.children()
    assert stubs and server.leftovers()
    shared = set().union(*(shared_memory_of(pid) for pid in (server.pid, *(s.pid for s in stubs))))
    assert shared >= set(server.leftovers())
    assert not running.done()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 90  # it ended by itself
    assert running.result(30).images is not None  # what was begun is finished
    assert server.leftovers() == [] and not any(file.exists() for file in shared)
    assert not any(stub.is_alive() for stub in stubs)
