"""The full-size measurements, on a checkpoint of a few hundred kilobytes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_bench.export_limits import ExportFigures
from fam_bench.export_run import ExportCommand, kill_export
from fam_bench.format_comparison import COMPARED, check_equal
from fam_bench.full_size import main
from fam_bench.full_size_engines import engine_jobs, engine_table, measure_engines
from fam_bench.full_size_step import relative_errors
from fam_bench.killed_export import check_bundle, export_with_kills
from fam_bench.process_memory import MemoryPeaks, memory_fields
from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.bundle import Bundle
from fam_runtime.errors import BundleError, ExportError
from tests.checkpoints import make_checkpoint

MB = 10**6
GOOD = ExportFigures(weights=1000, peak=1300, graphs=1020, bundle=2000)


def test_what_is_at_the_limits_passes_and_what_is_above_does_not() -> None:
    assert GOOD.broken_limits() == []
    (memory,) = replace(GOOD, peak=1301).broken_limits()
    assert "peak memory is 1.301 times" in memory
    (graphs,) = replace(GOOD, graphs=1021).broken_limits()
    assert "graphs take 1.021 times" in graphs


def test_peaks_are_those_of_the_process_and_of_its_numeric_check(tmp_path: Path) -> None:
    check = "import time; block = b'x' * 80_000_000; time.sleep(60)"
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/check.py").write_text(check)
    parent = (
        "import subprocess, sys; block = b'x' * 40_000_000; del block;"
        "subprocess.run([sys.executable, '-m', 'fake.check'])"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path) as process:
        peaks = MemoryPeaks()
        deadline = time.monotonic() + 30
        while peaks.check < 80 * MB and time.monotonic() < deadline:
            time.sleep(0.05)
            peaks.look(process.pid, "fake")
        now = memory_fields(process.pid)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), 9)
    assert 80 * MB < peaks.check < 120 * MB
    assert 40 * MB < peaks.resident < 80 * MB
    assert 0 < now["RssAnon"] < 40 * MB and peaks.file_backed > 0
    assert memory_fields(process.pid) == {}


@dataclass(frozen=True)
class Measured:
    """What the command left of a tiny checkpoint."""

    status: int
    document: dict[str, Any]
    printed: str
    bundle: Path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    root = tmp_path_factory.mktemp("full-size")
    config = make_checkpoint("sd15", root / "config")
    command = ["--model", str(config), "--format", "single-file", "--dtype", "fp32", "--keep"]
    command += ["--work", str(root / "work"), "--json", str(root / "json"), "--step", "target"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(command)
    document = json.loads((root / "json").read_text())
    (bundle,) = (root / "work").rglob("bundle-fp32-2")
    return Measured(status, document, printed.getvalue(), bundle)


def test_an_export_is_measured_and_a_tiny_one_breaks_the_limit_of_memory(
    measured: Measured,
) -> None:
    assert measured.status == 1
    export = measured.document["export"]
    assert export["memory"]["resident"] > 100 * MB
    assert export["bundle_hash"] == Bundle.open(measured.bundle).hash
    assert {stage["name"] for stage in export["stages"]} >= {"native", "target-256x256"}
    assert export["figures"]["graphs"] > export["figures"]["weights"] > 0
    assert "| stage | seconds |" in measured.printed
    assert measured.document["machine"]["cpu"] and measured.document["machine"]["cores"] > 0


def test_a_step_of_the_bundle_is_that_of_pytorch(measured: Measured) -> None:
    errors = measured.document["step"]["errors"]
    assert set(errors) == {"next_latent", "prediction"} and max(errors.values()) < 1e-4


def test_engines_are_built_once_and_what_fails_says_why(measured: Measured, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    bundle = Bundle.open(measured.bundle)
    jobs = engine_jobs(bundle, "unet", "tensorrt-rtx", Gpu("sm89"), tmp_path)
    assert [job.graph for job in jobs] == ["unet/native.onnx", "unet/target-256x256.onnx"]
    (built, refused) = measure_engines(
        bundle, [jobs[0], replace(jobs[0], ranges={})], lambda text: None
    )
    (plan,) = tmp_path.rglob("*.plan")
    times, again = built.built.times, built.cached and built.cached.times
    assert times is not None and not times.reused and again is not None and again.reused
    assert times.plan_bytes == again.plan_bytes == plan.stat().st_size > built.weights > 0
    assert 0 < times.parse_seconds < times.build_seconds < times.total_seconds
    memory, (anonymous, mapped) = built.built.memory, built.built.peak_parts
    assert 100 * MB < anonymous + mapped <= memory.resident
    assert refused.built.times is None and "has no size" in refused.built.error
    table = engine_table([built, refused])
    assert table.count("| – |") and "not built. " in table and str(tmp_path) not in table
    assert str(tmp_path) not in json.dumps([built.as_dict(), refused.as_dict()])


FAKE_EXPORT = """
import shutil, sys, time
from pathlib import Path
source, staged, final = (Path(argument) for argument in sys.argv[1:])
for file in sorted(file for file in source.rglob("*") if file.is_file()):
    copy = staged / file.relative_to(source)
    if not copy.exists():
        time.sleep(0.05)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy.with_name("partial"))
        copy.with_name("partial").rename(copy)
if staged != final:
    staged.rename(final)
Path(f"{final}.report.json").write_text('{"stages": []}')
"""


@pytest.mark.parametrize("atomic", [True, False])
def test_a_killed_export_ends_in_the_same_bundle_and_one_that_shows_half_of_it_is_found(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    command = ExportCommand(measured.bundle, tmp_path / "bundle")
    staged = tmp_path / "staged" if atomic else command.output
    argv = [sys.executable, "-c", FAKE_EXPORT, str(command.model), str(staged)]
    monkeypatch.setattr(ExportCommand, "argv", lambda self: [*argv, str(self.output)])
    expected, told = Bundle.open(measured.bundle).hash, list[str]()
    arguments: dict[str, Any] = {"kills": 4, "seconds": 1.2, "seed": 0, "say": told.append}
    if not atomic:
        with pytest.raises(BundleError):
            export_with_kills(command, expected, **arguments)
        return
    result = export_with_kills(command, expected, **arguments)
    assert len(result.moments_s) == 4 and len(told) == 4 + result.finished
    assert Bundle.open(command.output).hash == expected == result.bundle_hash
    with pytest.raises(ExportError, match="not the bundle that an undisturbed export makes"):
        check_bundle(command.output, "0" * 64)


def test_a_killed_process_takes_its_children_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "child"
    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(marker)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    monkeypatch.setattr(ExportCommand, "argv", lambda self: [sys.executable, "-c", code])
    command = ExportCommand(tmp_path, tmp_path / "bundle")
    assert kill_export(command, 2)
    child = int(marker.read_text())
    deadline = time.monotonic() + 10
    while memory_fields(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert memory_fields(child) == {}


def test_a_polite_kill_of_the_measurement_ends_its_export(tmp_path: Path) -> None:
    marker = tmp_path / "export"
    export = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys; from fam_bench import full_size; from fam_bench.export_run import *;"
        f"ExportCommand.argv = lambda self: [sys.executable, '-c', {export!r}];"
        "full_size.run = lambda arguments: run_export(ExportCommand(*map(Path, 'ab')));"
        "sys.exit(full_size.main([]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        deadline = time.monotonic() + 30
        while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 130
    assert memory_fields(int(marker.read_text())) == {}


def test_weights_that_differ_by_format_are_found() -> None:
    same = dict.fromkeys(COMPARED, "a")
    check_equal({"folder": same, "single-file": dict(same)})
    with pytest.raises(ExportError, match=r"unet/weights.json exported from single-file is not"):
        check_equal({"folder": same, "single-file": {**same, COMPARED[1]: "b"}})


def test_errors_are_relative_and_nan_is_one() -> None:
    expected = np.array([0.0, -4.0, 2.0], np.float32)
    assert relative_errors(expected.astype(np.float16), expected) == (0, 0)
    largest, rms = relative_errors(expected + np.float32([0, 1, 0]), expected)
    assert largest == pytest.approx(1 / 4) and rms == pytest.approx((1 / 20) ** 0.5)
    assert not relative_errors(np.float32([0, np.nan, 2]), expected)[0] <= 1
