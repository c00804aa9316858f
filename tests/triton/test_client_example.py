"""The example's client where it can make no picture; `clients.py` asks real servers with it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "runtime/examples/triton_client.py"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("triton_client_under_test", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class SilentClient:
    """Takes a request and says nothing; what was done to its stream is in `stopped`."""

    def __init__(self, stopped: list[bool]) -> None:
        self.stopped = stopped

    def __enter__(self) -> SilentClient:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is open."""

    def get_model_metadata(self, model: str, *, as_json: bool) -> dict[str, Any]:
        assert model == "fam_diffusion_stream" and as_json
        names = {"prompt": "BYTES", "seed": "UINT64"}
        return {"inputs": [{"name": name, "datatype": kind} for name, kind in names.items()]}

    def start_stream(self, callback: object) -> None:
        assert callable(callback)

    def async_stream_infer(self, model: str, inputs: list[Any], *, outputs: list[Any]) -> None:
        assert len(inputs) == 2 and "progress" in outputs

    def stop_stream(self, *, cancel_requests: bool) -> None:
        self.stopped.append(cancel_requests)


def test_a_stream_that_says_nothing_is_cancelled(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped: list[bool] = []
    grpc: Any = ModuleType("tritonclient.grpc")
    grpc.InferenceServerClient = lambda address: SilentClient(stopped)
    grpc.InferInput = lambda *about: SimpleNamespace(set_data_from_numpy=lambda array: None)
    grpc.InferRequestedOutput = str
    parent: Any = ModuleType("tritonclient")
    parent.grpc = grpc
    monkeypatch.setitem(sys.modules, "tritonclient", parent)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", grpc)
    output = tmp_path / "out.png"
    arguments = ["a", "--protocol", "stream", "--timeout", "0.1", "-o", str(output)]
    assert example.main(arguments) == 1
    assert capsys.readouterr().err == "error: no answer for 0.1 s\n"
    assert stopped == [True]
    assert not output.exists()


@pytest.mark.parametrize("output", ["", "missing/out.png"], ids=["a folder", "no folder"])
def test_a_file_that_cannot_be_written_is_found_before_the_picture_is_made(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    output: str,
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(example, "ask_http", lambda *request, **options: asked.append(request))
    assert example.main(["a", "-o", str(tmp_path / output)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(tmp_path) in line
    assert not asked


def test_a_request_that_fails_leaves_an_old_picture_as_it_was(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*request: object, **options: object) -> None:
        raise OSError

    monkeypatch.setattr(example, "ask_http", fail)
    old = tmp_path / "out.png"
    old.write_bytes(b"old")
    assert example.main(["a", "-o", str(old)]) == 1
    assert old.read_bytes() == b"old"


@pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
def test_a_missing_client_is_named_with_its_extra(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    protocol: str,
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    output = str(tmp_path / "out.png")
    assert example.main(["a", "--protocol", protocol, "-o", output]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "tritonclient" in line and line.endswith('pip install "fam-diffusion[triton]"')
