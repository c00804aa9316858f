"""fam-bench as a command, on a machine without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fam_bench.latency.command import main
from fam_bench.latency.contestants import BY_NAME, EAGER, LITERAL, ONNXRUNTIME_CPU
from fam_bench.latency.plan import batches, kinds_asked_for
from fam_bench.latency.results.protocol import PAPER_MINUTES, protocol_rows
from tests.runtime.fake_bundle import write_bundle

KINDS = {
    ("target", 2.0),
    ("plain", 2.0),
    ("without_am", 2.0),
    ("target_at_zero", 2.0),
    ("native", 1.0),
    ("native_plain", 1.0),
    ("picture", 2.0),
    ("direct", 2.0),
}
GPU_ONLY = {name for name, contestant in BY_NAME.items() if contestant.devices == ("cuda",)}


def test_a_machine_without_a_gpu_measures_what_it_can_and_says_why_not_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, output = write_bundle(tmp_path / "bundle"), tmp_path / "output"
    names = {*BY_NAME} - {"openvino", "cpp", "triton"}
    command = [str(bundle), "--scale", "2", "--scale", "3", "--rounds", "2", "--steps", "2"]
    command += ["--contestants", ",".join(names), "--device", "cpu", "--paper-protocol"]
    assert main([*command, "--output", str(output)]) == 0
    document = json.loads((output / "results.json").read_text())
    rows = {(row["contestant"], row["kind"], row["scale"]): row for row in document["figures"]}
    assert set(rows) == {(ONNXRUNTIME_CPU, kind, scale) for kind, scale in KINDS}
    for row in rows.values():
        assert row["min_seconds"] <= row["median_seconds"] <= row["p95_seconds"]
        assert row["n"] == len(row["seconds"]) >= 2 == len(row["round_seconds"])
        assert row["peak_host_bytes"] > 10**7 and row["peak_device_bytes"] is None
        assert row["device_seconds"] == [] and row["median_device_seconds"] is None
        assert row["spread"] >= 0
    stages = rows[ONNXRUNTIME_CPU, "picture", 2.0]["stage_seconds"]
    assert set(stages) >= {"text", "native", "upsample", "target", "decode"}
    assert {part["part"] for part in document["parts"]} == {"FM", "AM", "FM + AM", "taps"}
    floors = {(row["kind"], row["scale"]): row["floor_seconds"] for row in document["floor"]}
    assert set(floors) == {
        (k, s) for k, s in KINDS if k in ("native", "target", "plain", "picture")
    }
    for (kind, scale), least in floors.items():
        assert 0 < least < rows[ONNXRUNTIME_CPU, kind, scale]["min_seconds"]
    (overhead,) = document["protocol"]
    assert (overhead["scale"], overhead["paper_fam_minutes"]) == (2.0, 1.0)
    reasons = {
        (row["contestant"], row["kind"], row["scale"]): row["reason"] for row in document["not_run"]
    }
    assert len(reasons) == len(document["not_run"])
    assert all("needs a GPU" in reasons[name, "target", 2.0] for name in GPU_ONLY)
    assert "name it with --model" in reasons["torch-eager", "target", 2.0]
    assert "name it with --model" in reasons[LITERAL, "picture", 2.0]
    assert "the bundle has no target for scale 3" in reasons[ONNXRUNTIME_CPU, "target", 3.0]
    text = capsys.readouterr().out
    assert text.rstrip() == (output / "report.md").read_text().rstrip()
    assert "| ms | ONNX Runtime, CPU |" in text and "## Not run" in text
    tables = [line.replace("\\|", "") for line in text.splitlines()]
    widths = [line.count("|") for line in tables]
    for above, below, line in zip(widths, widths[1:], tables[1:], strict=False):
        assert not line.startswith("|") or above in (0, below), line


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(write_bundle(tmp_path / "bundle"))
    command = [bundle, "--only", "steps", "--contestants", ONNXRUNTIME_CPU, "--rounds", "5"]
    before, after = tmp_path / "before", tmp_path / "after"
    assert main([*command, "--output", str(before)]) == 0
    files = [str(folder / "results.json") for folder in (before, after)]
    assert main(["--compare", files[0], files[0]]) == 0
    slowdown = ["--plant-slowdown", f"{ONNXRUNTIME_CPU}=30"]
    assert main([*command, *slowdown, "--output", str(after)]) == 0
    capsys.readouterr()
    assert main(["--compare", *files]) == 1
    text = capsys.readouterr().out
    assert "planted slowdowns" in text and text.count("| slower |") == 6, text
    assert "was made 30 times as slow on purpose" in (after / "report.md").read_text()


@pytest.mark.parametrize(
    "command, expected",
    [
        ([], "one bundle is measured"),
        (["bundle", "--full-size", "sdxl"], "one bundle is measured"),
        (["bundle", "--contestants", "torch"], "unknown contestants"),
        (["bundle", "--plant-slowdown", "tensorrt=2"], "no slowdown can be planted there"),
        (["--compare", "no.json", "neither.json"], "no.json"),
        (["BUNDLE", "--contestants", "cpp", "--only", "steps"], "there is nothing to measure"),
    ],
)
def test_mistakes_are_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], expected: str
) -> None:
    if "BUNDLE" in command:
        command = [str(write_bundle(tmp_path / "bundle")), *command[1:]]
    assert main(command) not in (0, 1)
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error and error.count("\n") == 1


def test_what_is_asked_for_is_measured_in_the_order_of_loading() -> None:
    def kinds(*only: str, direct: bool = False) -> list[list[str]]:
        asked = kinds_asked_for(only or None, direct=direct)
        found = batches([ONNXRUNTIME_CPU], [2.0, 3.0], asked)
        return [[f"{unit.kind} {unit.scale:g}" for unit in batch] for batch in found]

    target = ["target", "plain", "without_am", "target_at_zero"]
    steps = [
        ["native 1", "native_plain 1", *(f"{kind} 2" for kind in target)],
        [f"{kind} 3" for kind in target],
    ]
    pictures = [["picture 2"], ["picture 3"]]
    assert kinds() == steps + pictures
    assert kinds("steps") == kinds("steps", direct=True) == steps
    assert kinds("pictures") == pictures
    both = [["picture 2", "direct 2"], ["picture 3", "direct 3"]]
    assert kinds("pictures", direct=True) == kinds("direct", "picture") == both
    assert kinds("plain", "target") == [["target 2", "plain 2"], ["target 3", "plain 3"]]
    assert kinds("native", "pictures") == [["native 1"], *pictures]


def test_the_overhead_is_that_of_the_paper_where_the_times_are() -> None:
    def row(kind: str, scale: float, minutes: float) -> dict[str, object]:
        return {
            "contestant": "tensorrt",
            "title": "TensorRT",
            "kind": kind,
            "scale": scale,
            "median_seconds": 60 * minutes,
            "stage_seconds": {"native": 6.0},
        }

    figures = []
    for scale, (direct, fam) in PAPER_MINUTES.items():
        figures += [row("direct", scale, direct), row("picture", scale, fam)]
    rows = protocol_rows(figures)
    assert [own["scale"] for own in rows] == [2, 3, 4]
    for own in rows:
        assert own["overhead"] == pytest.approx(own["paper_overhead"])
    assert [round(100 * own["overhead"]) for own in rows] == [25, 14, 13]
    assert rows[0]["native_share"] == pytest.approx(0.1)


@pytest.mark.slow
def test_the_papers_protocol_on_the_demo(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    names = [LITERAL, EAGER, ONNXRUNTIME_CPU]
    command = [str(demo_bundle), "--output", str(output), "--contestants", ",".join(names)]
    command += ["--only", "pictures", "--paper-protocol", "--steps", "2", "--rounds", "2"]
    assert main(command) == 0
    document = json.loads((output / "results.json").read_text())
    assert document["not_run"] == []
    pictures = {row["contestant"]: row for row in document["figures"] if row["kind"] == "picture"}
    assert list(pictures) == names
    for name in (EAGER, ONNXRUNTIME_CPU):
        fidelity = pictures[name]["fidelity"]
        assert fidelity["against"] == LITERAL and fidelity["of"] == ["latent"]
        assert fidelity["psnr_db"] > 80 and fidelity["max_error"] < 1e-3
    assert {row["contestant"] for row in document["protocol"]} == {EAGER, ONNXRUNTIME_CPU}
    assert (output / "stages.png").exists()
    assert "## FAM beside direct inference" in capsys.readouterr().out
