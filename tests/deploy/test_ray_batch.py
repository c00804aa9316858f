"""The offline batch on Ray Data: its pictures, bad lines, a second run, and what it opens."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fam_runtime import FamPipeline
from fam_runtime.batch import PromptLine
from fam_runtime.picture import settings_from_png
from tests.runtime.fake_bundle import write_bundle

SCRIPT = Path(__file__).parents[2] / "runtime/examples/ray_batch.py"
JOB_TIMEOUT_SECONDS = 120
EXIT_TIMEOUT_SECONDS = 10
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

GOOD = {
    1: ({"prompt": "a red ring"}, {"seed": 1}),
    2: (
        {"prompt": "a cat", "seed": 2**64 - 1, "steps": 3, "name": "cat"},
        {"seed": 2**64 - 1, "num_inference_steps": 3},
    ),
    3: (
        {"prompt": "a dog", "scale": [2, 4], "guidance_scale": 3, "negative_prompt": "blur"},
        {"seed": 3, "scale": (2, 4), "guidance_scale": 3, "negative_prompt": "blur"},
    ),
    4: (
        {"prompt": "a fox", "height": 128, "width": 256, "method": "am", "scheduler": "euler-a"},
        {"seed": 4, "height": 128, "width": 256, "method": "am", "scheduler": "euler-a"},
    ),
}
"""Lines, and the arguments of the pipeline that each means; the command line says 2 steps."""

BAD = {
    5: ('{"prompt": "x", "scale": 3}', "no target for scale 3"),
    6: ('{"prompt": "x", "name": "../x"}', "no plain file name"),
    7: ('{"prompt": "x"', "no JSON object"),
}
"""Lines without a picture, and words of their errors (more: tests/runtime/test_prompt_file.py)."""

FILES = {1: "000001.png", 2: "cat.png", 3: "000003.png", 4: "000004.png"}

DIES_ONCE = """
import os, sys
import ray_batch

class DiesOnce(ray_batch.PictureMaker):
    def __call__(self, row):
        mark = self._output.parent / "died"
        if '"file": "cat.png"' in row["line"] and not mark.exists():
            mark.touch()
            os._exit(9)
        return super().__call__(row)

ray_batch.PictureMaker = DiesOnce
sys.exit(ray_batch.main())
"""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_batch", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


ray_batch = load_script()


@dataclass(frozen=True)
class Finished:
    """A job that ended: its status, what it wrote and said, and what its processes did."""

    status: int
    output: Path
    errors: str
    listened: set[str]
    left_running: list[str]

    def index(self) -> list[dict]:
        return [json.loads(row) for row in (self.output / "index.jsonl").read_text().splitlines()]

    def states(self) -> dict[int, str]:
        return {row["line"]: row["state"] for row in self.index()}


def run_job(place: Path, *command: str) -> Finished:
    """Run a job under `place`, with Ray's own files out of the user's home and of /tmp/ray."""
    import psutil

    output, said = place / "pictures", place / "stderr.txt"
    changed = {"HOME": str(place), "PYTHONPATH": str(SCRIPT.parent)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | changed
    arguments = (place / "bundle", place / "prompts.jsonl", "-o", output, "--steps", "2")
    seen: set[psutil.Process] = set()
    listened: set[str] = set()
    # Ray's sockets need a short name.
    with tempfile.TemporaryDirectory(prefix="ray") as ray_folder, said.open("w") as stream:
        job = subprocess.Popen(
            [sys.executable, *command, *map(str, arguments), "--workers", "2", "--threads", "1"],
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env={**environment, "RAY_TMPDIR": ray_folder},
        )
        try:
            end = time.monotonic() + JOB_TIMEOUT_SECONDS
            while job.poll() is None and time.monotonic() < end:
                listened |= look_at(psutil.Process(job.pid), seen)
                time.sleep(0.3)
            left = psutil.wait_procs(seen, timeout=EXIT_TIMEOUT_SECONDS)[1]
            return Finished(
                job.poll(), output, said.read_text(), listened, [str(process) for process in left]
            )
        finally:
            for process in (job, *seen):
                if isinstance(process, subprocess.Popen) or process.is_running():
                    process.kill()
            job.wait()


def look_at(job, seen) -> set[str]:
    """Addresses on which `job` and its children listen; the children are added to `seen`."""
    import psutil

    addresses = set()
    try:
        children = job.children(recursive=True)
    except psutil.NoSuchProcess:
        return addresses
    seen.update(children)
    for process in (job, *children):
        try:
            sockets = process.net_connections("inet")
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        addresses |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    return addresses


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a bundle and a file of prompts."""
    place = tmp_path_factory.mktemp("ray")
    write_bundle(place / "bundle")
    lines = {n: json.dumps(line) for n, (line, _) in GOOD.items()}
    lines |= {n: line for n, (line, _) in BAD.items()}
    (place / "prompts.jsonl").write_text("\n".join(lines[n] for n in sorted(lines)) + "\n")
    return place


@pytest.fixture(scope="module")
def job(place):
    """The first run of the job."""
    pytest.importorskip("ray.data", reason="Ray is missing: pip install 'fam-diffusion[ray]'")
    pytest.importorskip("psutil", reason="psutil is missing, which looks at Ray's processes")
    return run_job(place, str(SCRIPT))


@pytest.mark.slow
def test_pictures_are_those_of_the_pipeline(place, job):
    rows = {row["line"]: row for row in job.index()}
    with FamPipeline.from_pretrained(place / "bundle", progress=False, num_threads=1) as pipe:
        for number, (line, arguments) in GOOD.items():
            expected = pipe(line["prompt"], **{"num_inference_steps": 2, **arguments})
            wanted = np.asarray(expected.images[0])
            path = job.output / FILES[number]
            assert np.array_equal(pixels(path), wanted)
            assert settings_from_png(path) == json.loads(json.dumps(expected.settings[0]))
            assert rows[number] == {
                "line": number,
                "state": "made",
                "file": FILES[number],
                "seed": arguments["seed"],
                "sha256": hashlib.sha256(wanted.tobytes()).hexdigest(),
                "error": None,
            }


@pytest.mark.slow
def test_bad_lines_are_reported_and_stop_no_other(place, job):
    assert job.status == 1
    assert job.errors.splitlines()[-1].startswith("ray_batch.py: error: 3 of 7 lines have no")
    assert "Traceback" not in job.errors
    errors = {row["line"]: row["error"] for row in job.index() if row["state"] == "failed"}
    assert errors.keys() == BAD.keys()
    for number, (_, words) in BAD.items():
        assert words in errors[number]
    assert {path.name for path in job.output.iterdir()} == {*FILES.values(), "index.jsonl"}
    assert not (place / "x.png").exists()


@pytest.mark.slow
def test_only_this_machine_reaches_ray_and_nothing_of_it_stays(job):
    assert job.listened
    assert job.listened <= LOOPBACK
    assert job.left_running == []


@pytest.mark.slow
def test_second_run_makes_what_is_missing_although_its_worker_dies(place, job):
    before = {name: (job.output / name).stat() for name in FILES.values()}
    (job.output / FILES[2]).unlink()
    again = run_job(place, "-c", DIES_ONCE)
    assert (place / "died").exists()
    assert {n: s for n, s in again.states().items() if n in GOOD} == {
        1: "kept",
        2: "made",
        3: "kept",
        4: "kept",
    }
    for number in (1, 3, 4):
        now, then = (job.output / FILES[number]).stat(), before[FILES[number]]
        assert (now.st_ino, now.st_mtime_ns) == (then.st_ino, then.st_mtime_ns)
    assert again.left_running == []


def report_on(maker):
    line = PromptLine(1, "x.png", {"prompt": "a cat", "seed": 1, "steps": 1})
    return json.loads(maker({"line": json.dumps(asdict(line))})["report"])


def test_worker_that_can_make_no_picture_says_so_for_the_whole_job(place, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    with (bundle / "unet/native.onnx").open("r+b") as graph:
        graph.write(b"x")
    maker = ray_batch.PictureMaker(str(bundle), str(tmp_path), {"num_threads": 1})
    assert "native.onnx" in report_on(maker)["stop"]

    maker = ray_batch.PictureMaker(str(place / "bundle"), str(tmp_path / "gone"), {})
    assert "stop" in report_on(maker)


def test_no_cluster_at_an_address_is_a_message_at_once(place, tmp_path, capsys):
    with socket.socket() as nobody:  # bound, and listening to nobody
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        command = [str(place / "bundle"), str(place / "prompts.jsonl"), "-o", str(tmp_path)]
        assert ray_batch.main([*command, "--address", address]) == 1
    assert f"no Ray cluster answers | got '{address}" in capsys.readouterr().err
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == len(BAD)
