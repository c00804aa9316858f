"""The harness of the tests on a real server: it starts, reports, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fam_bench.tritonserver import (
    LOCALHOST,
    ROOT,
    Ports,
    Process,
    TritonEnvironment,
    TritonServer,
    TritonServerError,
    TritonUnavailable,
    free_ports,
    wait_until,
)
from fam_bench.tritonserver import environment as environments
from fam_bench.tritonserver import server as harness
from tests.triton.conftest import REQUIRED, StartTriton, environment_or_outcome

MODEL, OTHER = "double", "double_stream"

MODEL_PY = """\
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        numbers = [pb.get_input_tensor_by_name(one, "number").as_numpy() for one in requests]
        return [pb.InferenceResponse([pb.Tensor("doubled", 2 * number)]) for number in numbers]
"""

CONFIG = """\
backend: "python"
max_batch_size: 0
input [{ name: "number" data_type: TYPE_FP32 dims: [ 1 ] }]
output [{ name: "doubled" data_type: TYPE_FP32 dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""

REQUEST = {"inputs": [{"name": "number", "datatype": "FP32", "shape": [1], "data": [21]}]}

FREE_TO_DIFFER = {"numpy", "protobuf"}
"""The server's client asks for older ones."""


def add_model(repository: Path, name: str, code: str = MODEL_PY) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG)
    (repository / name / "1/model.py").write_text(code)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    add_model(root, MODEL)
    add_model(root, OTHER)
    return root


@pytest.fixture(scope="module")
def server(start_triton: StartTriton, repository: Path) -> TritonServer:
    return start_triton(repository)


def doubled(server: TritonServer) -> list[float]:
    status, document = server.infer(MODEL, REQUEST)
    assert status == 200, document
    return list(document["outputs"][0]["data"])


def answers(port: int, address: str = LOCALHOST) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


def served(server: TritonServer, model: str) -> float:
    return server.metric("nv_inference_request_success", model=model)


def test_a_ready_server_serves_and_counts(server: TritonServer) -> None:
    before = served(server, MODEL)
    assert doubled(server) == [42]
    # Triton counts a request after it has sent the response.
    assert wait_until(lambda: served(server, MODEL) == before + 1, 30)
    assert served(server, OTHER) == 0
    assert server.statistics(MODEL)["inference_stats"]["success"]["count"] == before + 1
    with pytest.raises(LookupError, match="no sample nv_inference_request_success with"):
        served(server, "triple")


def test_a_server_is_ready_when_the_last_of_its_ports_answers(tmp_path: Path) -> None:
    class SaysThatItIsReady(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'{{"name":"{early.id}"}}'.encode())

        def log_message(self, *_: object) -> None:
            pass

    nowhere = TritonEnvironment(tmp_path, tmp_path, tmp_path, (), None)
    early = TritonServer(nowhere, tmp_path, tmp_path)
    with ThreadingHTTPServer((LOCALHOST, 0), SaysThatItIsReady) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        with socket.create_server((LOCALHOST, 0)) as grpc, socket.socket() as metrics:
            metrics.bind((LOCALHOST, 0))  # taken, and refuses who connects
            ports = (own.getsockname()[1] for own in (http.socket, grpc, metrics))
            early.ports = Ports(*ports)
            assert not early._is_ready()
            metrics.listen()
            assert early._is_ready()
        http.shutdown()


def test_every_port_is_bound_to_one_address(server: TritonServer) -> None:
    """A server on all addresses would answer on every one of 127.0.0.0/8."""
    for port in vars(server.ports).values():
        assert answers(port) and not answers(port, "127.0.0.2")


def test_models_are_unloaded_and_loaded_by_name(server: TritonServer) -> None:
    assert server.index() == {MODEL: "READY", OTHER: "READY"}
    assert server.unload(OTHER) == (200, "")
    assert wait_until(lambda: not server.stub_pids(OTHER), 30)
    assert server.infer(OTHER, REQUEST)[0] == 404
    assert server.load(OTHER) == (200, "")
    assert len(server.stub_pids(OTHER)) == 1
    status, text = server.load("triple")
    assert status == 500 and "triple" in text


def test_a_killed_stub_is_the_one_of_its_model(start_triton: StartTriton, repository: Path) -> None:
    server = start_triton(repository, exit_timeout_s=1)
    (pid,) = server.stub_pids(MODEL)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not server.stub_pids(MODEL), 30)
    status, document = server.infer(MODEL, REQUEST)
    assert status == 500 and "is not healthy" in document["error"]
    assert server.infer(OTHER, REQUEST)[0] == 200
    server.close()
    assert server.leftovers() == []
    server.start()
    assert doubled(server) == [42]


def test_a_stopped_server_leaves_nothing(start_triton: StartTriton, repository: Path) -> None:
    server = start_triton(repository, load=[MODEL])
    pids = [server.pid or 0, *server.stub_pids(MODEL)]
    processes = [process for process in map(Process.of, pids) if process is not None]
    assert len(processes) == 2 and len(server.leftovers()) == 1
    server.stop()
    assert server.leftovers() == []
    assert not any(process.is_alive() for process in processes)
    assert not any(answers(port) for port in vars(server.ports).values())


def test_stubs_of_a_killed_server_are_ended(start_triton: StartTriton, repository: Path) -> None:
    server = start_triton(repository, load=[MODEL])
    (stub,) = server.children()
    os.kill(stub.pid, signal.SIGSTOP)  # so that it cannot see that its server is gone
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.close()
    assert not stub.is_alive()
    assert server.leftovers() == []


def test_a_killed_test_run_leaves_no_server(
    triton_environment: TritonEnvironment, repository: Path, tmp_path: Path
) -> None:
    code = (
        "import os, pathlib, signal; from fam_bench.tritonserver import *; "
        f"root, folder = pathlib.Path({str(repository)!r}), pathlib.Path({str(tmp_path)!r}); "
        "server = TritonServer(TritonEnvironment.find(), root, folder, load=[]); "
        "server.start(); print(server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert wait_until(lambda: Process.of(int(run.stdout)) is None, 30)


def test_taken_ports_are_exchanged(
    server: TritonServer, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, offers = server.ports, [server.ports]
    monkeypatch.setattr(harness, "free_ports", lambda: offers.pop() if offers else free_ports())
    with TritonServer(server.environment, repository, tmp_path, load=[]) as second:
        assert not offers
        assert set(vars(second.ports).values()).isdisjoint(vars(taken).values())
        assert set(second.index().values()) == {""}


def test_a_server_that_ends_shows_its_log(start_triton: StartTriton, tmp_path: Path) -> None:
    add_model(tmp_path, "broken", "raise RuntimeError('no such thing as a free lunch')\n")
    with pytest.raises(TritonServerError, match="(?s)ended with status .*no such thing as a free"):
        start_triton(tmp_path)


def test_a_server_that_is_late_is_stopped(
    triton_environment: TritonEnvironment, tmp_path: Path
) -> None:
    add_model(tmp_path / "models", "slow", "import time\ntime.sleep(60)\n")
    late = TritonServer(
        triton_environment, tmp_path / "models", tmp_path, start_timeout_s=1, exit_timeout_s=1
    )
    began = time.monotonic()
    with pytest.raises(TritonServerError, match=r"not ready in 1 s; .*server-1\.log"):
        late.start()
    assert time.monotonic() - began < 30
    assert late.pid is None and late.leftovers() == []


def test_without_a_server_tests_are_skipped_or_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAM_TRITON_ENV", str(tmp_path))
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="run `make triton-env`"):
        environment_or_outcome()
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="run `make triton-env`"):
        environment_or_outcome()


def test_half_an_environment_is_none(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    with pytest.raises(TritonUnavailable, match="bin/tritonserver does not exist"):
        TritonEnvironment.find(tmp_path)
    with pytest.raises(TritonUnavailable, match="apt-get install libpython3.99"):
        environments._library_folder(tmp_path, "3.99")


def test_the_server_has_the_versions_of_the_project() -> None:
    pins = [
        dict(
            line.split("==")
            for line in (ROOT / name).read_text().splitlines()
            if not line.startswith("#")
        )
        for name in ("constraints.txt", "constraints-triton.txt")
    ]
    shared = pins[0].keys() & pins[1].keys()
    assert {"onnxruntime", "tokenizers", "safetensors", "pillow"} <= shared
    assert {name for name in shared if pins[0][name] != pins[1][name]} == FREE_TO_DIFFER
