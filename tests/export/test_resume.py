"""An export that is killed at any moment is continued, and nothing half-made is ever visible."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fam_export.checkpoint import open_checkpoint
from fam_export.exporter import _fingerprint_of_work, export
from fam_export.options import ExportOptions
from fam_export.staging import ExportInterrupted, Staging
from fam_runtime.bundle import MANIFEST_NAME, Bundle
from fam_runtime.errors import ExportError
from tests.export.test_export import contents

STAGES_AT_KILL = (0, 1, 4, 6)
"""How many stages have left their record when the process is killed; eight make a bundle."""

LONGEST_RUN_SECONDS = 300.0


def export_process(checkpoint: Path, output: Path) -> subprocess.Popen[bytes]:
    command = ["-m", "fam_export.cli", "--model", str(checkpoint), "-q", "-o", str(output)]
    return subprocess.Popen([sys.executable, *command])


def kill_after(process: subprocess.Popen[bytes], records: Path, count: int) -> None:
    """SIGKILL as soon as `count` stages are recorded and the next one is under way."""
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    while not records.exists() or len(list(records.glob("*.json"))) < count:
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_exports_end_in_the_same_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tiny"
    records = tmp_path / ".tiny.staging" / "records"
    for count in STAGES_AT_KILL:
        kill_after(export_process(tiny_checkpoint, output), records, count)
        assert not output.exists()
        assert len(list(records.glob("*.json"))) >= count
    process = export_process(tiny_checkpoint, output)
    assert process.wait(timeout=LONGEST_RUN_SECONDS) == 0
    assert contents(output) == contents(tiny_bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_finished_stages_are_not_done_again(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, output = open_checkpoint(tiny_checkpoint), tmp_path / "tiny"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fam_export.exporter.manifest_from_records", stop)
        export(checkpoint, output, scales=["2"])
    assert not output.exists()
    monkeypatch.setattr("fam_export.stages.traced_graph", stop)
    export(checkpoint, output, scales=["2"])
    assert contents(output) == contents(tiny_bundle)


def test_damaged_stage_is_done_again(tmp_path: Path) -> None:
    with Staging.opened(tmp_path / "b", "one") as staging:
        (staging.bundle / "file").write_bytes(b"right")
        staging.finish("stage", ("file",), {})
        assert staging.record_of("stage") is not None
        (staging.bundle / "file").write_bytes(b"wrong")
        assert staging.record_of("stage") is None


def test_other_options_start_afresh(tmp_path: Path) -> None:
    with Staging.opened(tmp_path / "b", "one") as staging:
        (staging.bundle / "file").write_bytes(b"")
        staging.finish("stage", ("file",), {})
    with Staging.opened(tmp_path / "b", "two") as staging:
        assert staging.record_of("stage") is None


def test_two_exporters_do_not_share_a_staging_area(tmp_path: Path) -> None:
    with (
        Staging.opened(tmp_path / "b", "one"),
        pytest.raises(ExportError, match="another fam-export is writing"),
        Staging.opened(tmp_path / "b", "one"),
    ):
        pass


def test_kill_while_a_target_is_added_leaves_the_old_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, output = open_checkpoint(tiny_checkpoint), tmp_path / "tiny"
    shutil.copytree(tiny_bundle, output)
    manifest = (output / MANIFEST_NAME).read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fam_export.exporter.extended_manifest", stop)
        export(checkpoint, output, scales=["1.5"])
    assert (output / MANIFEST_NAME).read_bytes() == manifest
    (output / "manifest.json.1234.partial").write_bytes(b"of a writer that was killed")
    Bundle.open(output)
    export(checkpoint, output, scales=["1.5"])
    assert len(Bundle.open(output).manifest.targets) == 2
    assert not list(output.rglob("*.partial"))


def test_check_that_dies_costs_no_finished_stage(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fam_export.stages.MAX_DIRECT_CHECK_BYTES", 0)
    monkeypatch.setattr("fam_export.parity.process.sys.executable", shutil.which("false"))
    with pytest.raises(ExportInterrupted, match="run the same command again: it goes on"):
        export(open_checkpoint(tiny_checkpoint), tmp_path / "tiny", scales=["2"])
    assert (tmp_path / ".tiny.staging/records/settings.json").is_file()
    assert not (tmp_path / "tiny").exists()


def test_work_on_another_weight_file_is_not_continued(
    tiny_checkpoint: Path, tiny_bundle: Path
) -> None:
    checkpoint, options = open_checkpoint(tiny_checkpoint), ExportOptions()
    new = _fingerprint_of_work(checkpoint.fingerprint(), options, None)
    extended = _fingerprint_of_work(checkpoint.fingerprint(), options, Bundle.open(tiny_bundle))
    assert new != extended
