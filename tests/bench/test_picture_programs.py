"""Pictures by `fam_generate` and by a Triton server, as the benchmark asks for them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_bench.latency.libraries.cpp_pictures import CppPictures
from fam_bench.latency.libraries.triton_pictures import TritonPictures
from fam_bench.tritonserver import (
    ROOT,
    Process,
    TritonEnvironment,
    TritonUnavailable,
    children_of,
    wait_until,
)
from fam_runtime.errors import BackendError, InvalidRequest
from fam_runtime.picture import settings_from_png
from fam_runtime.pipeline import FamPipeline
from tests.cpp.conftest import built
from tests.triton.conftest import environment_or_outcome

PROMPT = "ein grüner Kreis"
ORDER: dict[str, Any] = {"prompt": PROMPT, "scale": 2.0, "steps": 3, "seed": 11, "threads": 1}
STAGES = {"text", "native", "upsample", "target", "decode", "load"}


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> bytes:
    """The picture of the runtime in this process."""
    with FamPipeline.from_pretrained(tiny_bundle, num_threads=1, progress=False) as pipe:
        result = pipe(PROMPT, scale=2.0, num_inference_steps=3, seed=11)
    return np.asarray(result.images[0]).tobytes()


@pytest.fixture(scope="module")
def program() -> Path:
    return built("fam_generate")


@pytest.fixture(scope="module")
def triton() -> TritonEnvironment:
    return environment_or_outcome()


def pixels(png: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(png))).tobytes()


def settings_of(png: bytes, folder: Path) -> tuple[str, int, int]:
    """Prompt, steps and seed of a picture."""
    path = folder / "to-read.png"
    path.write_bytes(png)
    found = settings_from_png(path)
    return found["prompt"], found["num_inference_steps"], found["seed"]


def children() -> set[Process]:
    return set(children_of(os.getpid()))


def test_cpp_makes_the_runtimes_picture_again_and_again(
    program: Path, tiny_bundle: Path, tmp_path: Path, expected: bytes
) -> None:
    before = children()
    with CppPictures(tiny_bundle, tmp_path, program=program, **ORDER) as pictures:
        made = [pictures.picture() for _ in range(3)]
        assert len(children() - before) == 1
        peak = pictures.peak_host_bytes()
    assert children() == before
    assert [picture.path.name for picture in made] == ["out-0.png", "out-1.png", "out-2.png"]
    for picture in made:
        assert pixels(picture.png) == expected
        assert picture.stage_seconds.keys() == STAGES
        assert picture.seconds > sum(picture.stage_seconds.values()) > 0
    assert made[0].stage_seconds["load"] > 10 * made[2].stage_seconds["load"], "it stays loaded"
    assert settings_of(made[0].png, tmp_path) == (PROMPT, 3, 11)
    weights = sum(file.stat().st_size for file in tiny_bundle.rglob("*") if file.is_file())
    assert pictures.peak_host_bytes() >= peak > weights


def test_cpp_without_a_program(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"not built .*/nowhere.* \| run make cpp"):
        CppPictures(tiny_bundle, tmp_path, program=tmp_path / "nowhere", **ORDER)
    (tmp_path / "text").write_text("no program")
    with pytest.raises(BackendError, match="does not start"):
        CppPictures(tiny_bundle, tmp_path, program=tmp_path / "text", **ORDER)


@pytest.mark.parametrize("prompt", ["", " \t", "two\nlines", "a line\r"])
def test_cpp_wants_a_line(tiny_bundle: Path, tmp_path: Path, prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="the prompt is no line"):
        CppPictures(tiny_bundle, tmp_path, **{**ORDER, "prompt": prompt})


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"scale": 3.0}, "status 2: fam_generate: error: the bundle has no target for scale 3"),
        ({"steps": 0}, "status 105: .*--steps"),
        ({"device": "toaster"}, "status 2: .*'toaster'"),
    ],
    ids=str,
)
def test_cpp_says_what_the_program_said(
    program: Path, tiny_bundle: Path, tmp_path: Path, order: dict[str, Any], message: str
) -> None:
    before = children()
    with CppPictures(tiny_bundle, tmp_path, program=program, **{**ORDER, **order}) as pictures:
        for _ in range(2):
            with pytest.raises(BackendError, match=message):
                pictures.picture()
        assert children() == before


def test_cpp_says_that_it_was_killed(program: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    before = children()
    with CppPictures(tiny_bundle, tmp_path, program=program, **ORDER) as pictures:
        pictures.picture()
        (child,) = children() - before
        child.kill()
        with pytest.raises(BackendError, match="ended with status -9: it said nothing"):
            pictures.picture()
        assert pictures.peak_host_bytes() >= 0


def test_cpp_is_ended_with_who_asks(program: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Also in the midst of a picture that takes minutes."""
    code = (
        "import sys, threading; from pathlib import Path; "
        "from fam_bench.latency.libraries.cpp_pictures import CppPictures; "
        "bundle, folder, program = map(Path, sys.argv[1:]); "
        "p = CppPictures(bundle, folder, program=program, prompt='a', scale=2, steps=900, seed=0); "
        "threading.Thread(target=p.picture, daemon=True).start(); "
        "print(p._process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tiny_bundle), str(tmp_path), str(program)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as asking:
        assert asking.stdout is not None
        child = Process.of(int(asking.stdout.readline()))
        assert child is not None
        assert wait_until(lambda: child.cpu_seconds() > 0.2, 30)
        asking.send_signal(signal.SIGKILL)
        asking.wait()
        assert wait_until(lambda: not child.is_alive(), 5)
    assert not list(tmp_path.glob("*.png"))


def test_triton_serves_the_runtimes_picture_and_leaves_nothing(
    triton: TritonEnvironment, tiny_bundle: Path, tmp_path: Path, expected: bytes
) -> None:
    before = children()
    with TritonPictures(tiny_bundle, tmp_path, environment=triton.bin.parent, **ORDER) as pictures:
        made = [pictures.picture() for _ in range(2)]
        server = pictures._server
        (daemon,) = children() - before
        stubs = children_of(daemon.pid)
        assert len(stubs) == 1, "one instance"
        peak = pictures.peak_host_bytes()
    for picture in made:
        assert pixels(picture.png) == expected
        assert picture.seconds > 0 and not picture.stage_seconds
    assert settings_of(made[0].png, tmp_path) == (PROMPT, 3, 11)
    assert pictures.peak_host_bytes() == peak > 50 * 2**20, "a server and a Python"
    assert children() == before and server.pid is None and server.leftovers() == []
    assert not any(process.is_alive() for process in (daemon, *stubs))
    with pytest.raises(BackendError, match="cannot be reached"):
        pictures.picture()


def test_triton_says_what_the_server_said(
    triton: TritonEnvironment, tiny_bundle: Path, tmp_path: Path
) -> None:
    before = children()
    order = {**ORDER, "scale": 3.0}
    with TritonPictures(tiny_bundle, tmp_path, environment=triton.bin.parent, **order) as pictures:
        with pytest.raises(BackendError, match=r"HTTP 400: .*no target for scale 3"):
            pictures.picture()
        (daemon,), (stub,) = children() - before, pictures._server.children()
        daemon.kill()
        assert wait_until(lambda: not daemon.is_alive(), 5)
        with pytest.raises(BackendError, match="cannot be reached"):
            pictures.picture()
    assert not stub.is_alive() and pictures._server.leftovers() == []


def test_triton_that_does_not_start_is_gone(
    triton: TritonEnvironment, tiny_bundle: Path, tmp_path: Path
) -> None:
    before = children()
    with pytest.raises(BackendError, match=r"did not start: .* not ready in 0\.1 s"):
        TritonPictures(
            tiny_bundle, tmp_path, environment=triton.bin.parent, start_timeout_s=0.1, **ORDER
        )
    assert children() == before


def test_triton_without_an_environment(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(TritonUnavailable, match="make triton-env"):
        TritonPictures(tiny_bundle, tmp_path, environment=tmp_path, **ORDER)
    assert not list(tmp_path.iterdir())


def test_triton_sees_no_gpu(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="sees no GPU"):
        TritonPictures(tiny_bundle, tmp_path, device="cuda", **ORDER)
