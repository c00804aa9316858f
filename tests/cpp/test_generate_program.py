"""`fam_generate`: a picture for every line of standard input, reports, errors, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_bench.tritonserver import Process, wait_until
from fam_runtime.picture import settings_from_png
from fam_runtime.pipeline import FamPipeline
from tests.conftest import Exported
from tests.cpp.conftest import built

SEED, STEPS = 5, 2
OPTIONS = ("--seed", str(SEED), "--threads", "1")
STAGES = {"text", "native", "upsample", "target", "decode", "load"}
TIMEOUT_S = 60
"""Then it hangs, and is ended, so that whoever reads its output goes on."""

LONG_STEPS = 100
"""So many that a picture is still at work when a signal comes."""
AT_WORK_S = 0.2
"""Of the processor's time, after which the next picture has been begun."""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tiny: Exported, tmp_path: Path) -> Iterator[Start]:
    """Starts the program in the test's folder; it is ended with the test."""
    program = built("fam_generate")
    with ExitStack() as running:

        def begin(prompt: str, *options: str, steps: int = STEPS) -> subprocess.Popen[bytes]:
            given = [str(tiny.bundle), prompt, *OPTIONS, "--steps", str(steps), *options]
            command = [str(program), *given]
            pipe = subprocess.PIPE
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path)
            running.enter_context(child)
            running.callback(child.kill)
            hanging = threading.Timer(TIMEOUT_S, child.kill)
            running.callback(hanging.cancel)
            hanging.start()
            return child

        yield begin


def ended(child: subprocess.Popen[bytes], text: bytes = b"") -> tuple[int, str, str]:
    """Status and both outputs of a child that was given `text`, and then the end of it."""
    out, err = child.communicate(text, timeout=TIMEOUT_S)
    return child.returncode, out.decode(), err.decode()


def expected(bundle: Path, prompts: list[str], **arguments: Any) -> list[Any]:
    """Pixels of the Python runtime, a call for each prompt."""
    with FamPipeline.from_pretrained(bundle, num_threads=1, progress=False) as pipe:
        shared = {"seed": SEED, "num_inference_steps": STEPS, **arguments}
        made = [pipe(prompt, **shared) for prompt in prompts]
    return [np.asarray(image) for result in made for image in result.images]


def pngs(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_line_is_a_picture(start: Start, tiny: Exported, tmp_path: Path) -> None:
    """Blank lines make none; the numbers go on; the line's end, of two kinds, is no prompt's."""
    prompts = ["a red circle", "ein grüner Kreis 漢字", " two  spaces", "-"]
    text = f"{prompts[0]}\n\n{prompts[1]}\r\n \t\r\n{prompts[2]}\n{prompts[3]}".encode()
    status, out, err = ended(start("-", "--num-images", "2", "-o", "p.of.png"), text)
    names = [f"p.of-{number}.png" for number in range(8)]
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{name} (seed {SEED + number % 2})" for number, name in enumerate(names)
    ]
    assert pngs(tmp_path) == set(names)
    pictures = expected(tiny.bundle, prompts, num_images_per_prompt=2)
    for number, (name, pixels) in enumerate(zip(names, pictures, strict=True)):
        assert settings_from_png(tmp_path / name)["prompt"] == prompts[number // 2]
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), pixels)


def test_a_picture_is_told_before_the_next_line_comes(start: Start, tmp_path: Path) -> None:
    """As is its report; whoever holds both pipes would otherwise wait for ever."""
    child = start("-", "--report")
    assert child.stdin is not None and child.stdout is not None
    for number in range(3):
        child.stdin.write(b"a red circle\n")
        child.stdin.flush()
        assert child.stdout.readline() == f"out-{number}.png (seed {SEED})\n".encode()
        report = json.loads(child.stdout.readline())
        assert report["seconds"].keys() == STAGES and report["native_attention"] == "store"
        if number == 0:
            loading = report["seconds"]["load"]
        else:
            assert report["seconds"]["load"] < loading / 10, "everything is kept loaded"
    assert ended(child) == (0, "", "")
    assert pngs(tmp_path) == {"out-0.png", "out-1.png", "out-2.png"}


def test_one_prompt_and_its_report(start: Start, tmp_path: Path) -> None:
    status, out, err = ended(start("a red circle", "--report", "--quiet", "--save-native"))
    assert (status, err) == (0, "")
    assert json.loads(out)["seconds"].keys() == STAGES
    assert pngs(tmp_path) == {"out.png", "out-native.png"}


def test_native_pictures_are_numbered_alike(start: Start, tmp_path: Path) -> None:
    status, out, _ = ended(start("-", "--quiet", "--save-native"), b"a\n")
    assert (status, out) == (0, "")
    assert pngs(tmp_path) == {"out-0.png", "out-0-native.png"}


def test_a_warning_stops_nothing(start: Start, tmp_path: Path) -> None:
    status, _, err = ended(start("-", "--quiet"), b"word " * 200 + b"\na\n")
    assert status == 0 and err.startswith("warning: ") and err.count("\n") == 1
    assert pngs(tmp_path) == {"out-0.png", "out-1.png"}


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"\xff", "the prompt is not valid Unicode"), (b"a\0b", "standard input is no text")],
    ids=["not UTF-8", "zero byte"],
)
def test_a_bad_prompt_ends_it(start: Start, tmp_path: Path, line: bytes, message: str) -> None:
    status, out, err = ended(start("-"), b"a\n" + line + b"\nb\n")
    assert status == 2 and err.startswith(f"fam_generate: error: {message} | ")
    assert out == f"out-0.png (seed {SEED})\n"
    assert pngs(tmp_path) == {"out-0.png"}


def test_no_prompts_are_no_pictures(start: Start, tmp_path: Path) -> None:
    assert ended(start("-"), b"\n") == (0, "", "")
    assert pngs(tmp_path) == set()


def test_input_that_cannot_be_read(tiny: Exported, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        done = subprocess.run(
            [built("fam_generate"), tiny.bundle, "-"],
            stdin=folder,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(folder)
    assert done.returncode == 1 and "standard input cannot be read" in done.stderr


def begin_one(child: subprocess.Popen[bytes], text: bytes) -> None:
    """Give it lines, and wait for the first one's picture."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(text)
    child.stdin.flush()
    assert child.stdout.readline().startswith(b"out-0.png")


def test_ctrl_c_cancels_the_picture_at_work(start: Start, tmp_path: Path) -> None:
    child = start("-", steps=LONG_STEPS)
    begin_one(child, b"a\nb\n")
    process = Process.of(child.pid)
    assert process is not None
    enough = process.cpu_seconds() + AT_WORK_S
    assert wait_until(lambda: process.cpu_seconds() > enough, 30)
    child.send_signal(signal.SIGINT)
    status, out, err = ended(child)
    assert (status, out) == (130, "") and "the generation was stopped" in err
    assert pngs(tmp_path) == {"out-0.png"}


def test_ctrl_c_ends_the_wait_for_a_line(start: Start) -> None:
    child = start("-")
    begin_one(child, b"a\n")
    child.send_signal(signal.SIGINT)
    assert child.wait(TIMEOUT_S) == -signal.SIGINT
