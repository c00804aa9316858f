"""The exporter from end to end on a tiny random checkpoint: what it writes, adds and refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from fam_export.checkpoint import open_checkpoint
from fam_export.cli import main
from fam_export.exporter import ExportResult, export
from fam_export.options import ExportOptions
from fam_export.preflight import Preflight
from fam_export.progress import NoProgress
from fam_runtime.bundle import Bundle
from fam_runtime.errors import ExportError, InvalidRequest, ParityError, StorageError
from tests.checkpoints import make_checkpoint


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def nothing_in(folder: Path) -> bool:
    """No bundle, no staging area, no temporary file."""
    return not folder.exists() or not any(folder.iterdir())


def inline_bytes(graph: Path) -> int:
    """Bytes of tensors that a graph keeps to itself."""
    model = onnx.load(graph, load_external_data=False)
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


class EstimateRecorder(NoProgress):
    """Remembers which stages were announced."""

    def plan(self, preflight: Preflight) -> None:
        self.estimated = set(preflight.estimate.seconds)


@dataclass(frozen=True)
class Again:
    """A second export of the tiny checkpoint, elsewhere."""

    bundle: Path
    result: ExportResult
    estimated: set[str]


@pytest.fixture(scope="module")
def again(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Again:
    bundle, progress = tmp_path_factory.mktemp("elsewhere") / "tiny", EstimateRecorder()
    checkpoint = open_checkpoint(tiny_checkpoint)
    result = export(checkpoint, bundle, scales=["2"], progress=progress)
    return Again(bundle, result, progress.estimated)


def test_same_checkpoint_gives_the_same_bytes(again: Again, tiny_bundle: Path) -> None:
    assert contents(again.bundle) == contents(tiny_bundle)


def test_every_stage_has_an_estimate(again: Again) -> None:
    assert again.estimated == {stage.name for stage in again.result.stages}
    assert all(stage.seconds > 0 and not stage.resumed for stage in again.result.stages)


def test_graphs_hold_no_paths_and_no_metadata(tiny_bundle: Path) -> None:
    for file in tiny_bundle.rglob("*.onnx"):
        model = onnx.load(file, load_external_data=False)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert b"site-packages" not in file.read_bytes()


def test_every_graph_was_compared_with_its_module(tiny_bundle: Path) -> None:
    graphs = Bundle.open(tiny_bundle).manifest.graphs
    assert len(graphs) == 6
    for spec in graphs.values():
        assert 0 <= spec.check["max_relative_error"] <= spec.check["tolerance"]
        assert spec.check["probes"] == 2


def test_adding_a_scale_adds_graphs_and_no_weights(tiny_checkpoint: Path, bundle: Path) -> None:
    before = contents(bundle)
    result = export(open_checkpoint(tiny_checkpoint), bundle, scales=["2", "2x4"])
    after = contents(bundle)
    assert [str(size) for size in result.added] == ["256x512"]
    assert {name for name in after if name not in before} == {
        "unet/target-256x512.onnx",
        "unet/upsample-256x512.onnx",
        "fm/kernels-256x512.safetensors",
    }
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json"}
    assert inline_bytes(bundle / "unet/target-256x512.onnx") < 0.02 * len(after["unet/weights.bin"])
    Bundle.open(bundle)


def test_bundle_does_not_depend_on_the_order_of_scales(
    tiny_checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    export(checkpoint, bundle, scales=["1.5"])
    at_once = tmp_path / "at-once" / "tiny"
    export(checkpoint, at_once, scales=["1.5", "2"])
    assert contents(at_once) == contents(bundle)


def test_an_export_that_is_there_is_left_alone(tiny_checkpoint: Path, bundle: Path) -> None:
    before = contents(bundle)
    result = export(open_checkpoint(tiny_checkpoint), bundle, scales=["2"])
    assert result.added == ()
    assert contents(bundle) == before


def test_another_checkpoint_cannot_add_to_a_bundle(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tiny"
    make_checkpoint("sd15", other, seed=1)
    before = contents(bundle)
    with pytest.raises(ExportError, match="was exported from another checkpoint"):
        export(open_checkpoint(other), bundle, scales=["3"])
    assert contents(bundle) == before


def test_other_options_cannot_add_to_a_bundle(tiny_checkpoint: Path, bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"with other options \(taps\)"):
        options = ExportOptions(tap_form="maps")
        export(open_checkpoint(tiny_checkpoint), bundle, scales=["3"], options=options)


def test_unknown_tap_layer_lists_what_there_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "tiny"
    with pytest.raises(InvalidRequest, match=r"no such tap layer .* up_blocks\.1\.attentions\.0"):
        options = ExportOptions(tap_layers=("up_blocks.9",))
        export(open_checkpoint(tiny_checkpoint), output, scales=["2"], options=options)
    assert nothing_in(output.parent)


def test_a_graph_that_differs_from_its_module_is_not_published(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fam_export.parity.check.RELATIVE_TOLERANCES", {"fp32": 0.0})
    output = tmp_path / "out" / "tiny"
    with pytest.raises(ParityError, match="is not what the PyTorch module computes"):
        export(open_checkpoint(tiny_checkpoint), output, scales=["2"])
    assert nothing_in(output.parent)


def test_a_full_disk_leaves_nothing_behind(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    output = tmp_path / "out" / "tiny"
    status = main(["--model", str(tiny_checkpoint), "-q", "-o", str(output)])
    assert status == StorageError.exit_code
    assert "no space left on the disk while writing" in capsys.readouterr().err
    assert nothing_in(output.parent)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--scale", "1.1"], "the checkpoint cannot do scale 1.1"),
        (["--size", "1000x1000"], "multiples of 64 pixels"),
        (["--scale", "zwei"], "--scale is not a number"),
        (["--tap-layers", "down_blocks.0.nothing"], "no such tap layer"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    output = tmp_path / "out" / "tiny"
    status = main(["--model", str(tiny_checkpoint), "-q", "-o", str(output), *arguments])
    captured = capsys.readouterr().err
    assert status != 0
    assert text in captured
    assert captured.count("\n") == 1
    assert "Traceback" not in captured
    assert nothing_in(output.parent)


def test_weights_table_covers_the_file(tiny_bundle: Path) -> None:
    table = json.loads((tiny_bundle / "unet/weights.json").read_text())
    end = 0
    for entry in sorted(table.values(), key=lambda e: e["offset"]):
        assert entry["offset"] == end
        end = entry["offset"] + entry["bytes"] + -entry["bytes"] % 64
    assert (tiny_bundle / "unet/weights.bin").stat().st_size == end


def test_shared_tensors_have_one_name_in_all_graphs(tiny_bundle: Path) -> None:
    table = json.loads((tiny_bundle / "unet/weights.json").read_text())
    for name in ("unet/native.onnx", "unet/target-256x256.onnx"):
        model = onnx.load(tiny_bundle / name, load_external_data=False)
        external = {
            t.name: {e.key: e.value for e in t.external_data}
            for t in model.graph.initializer
            if t.data_location == onnx.TensorProto.EXTERNAL
        }
        assert external
        for tensor, where in external.items():
            assert where["location"] == "weights.bin"
            assert int(where["offset"]) == table[tensor]["offset"]
