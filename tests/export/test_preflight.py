"""What an export says before it reads a weight, and what it refuses."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from fam_export.checkpoint import WeightSource, open_checkpoint
from fam_export.checkpoint.shipped import configuration_named
from fam_export.deferred import defer
from fam_export.definitions import target_step, unet_facts
from fam_export.estimate import activation_elements, estimate_export
from fam_export.exporter import export
from fam_export.graph_factory import GraphFactory
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_export.preflight import Preflight, preflight
from fam_export.progress import TimeLeft
from fam_runtime.bundle import Bundle, Defaults, PixelSize, Target
from fam_runtime.errors import ExportError, FamError, StorageError
from tests.checkpoints import make_checkpoint, write_json
from tests.conftest import Exported

DiskUsage = namedtuple("DiskUsage", "total used free")


class Zeros(dict[str, torch.Size]):
    """A source of zeros; the tracer looks into small tensors."""

    def __getitem__(self, name: str) -> torch.Tensor:  # type: ignore[override]
        return torch.zeros(super().__getitem__(name))


def refuse_to_read(*_: object) -> None:
    raise AssertionError("a weight was read")


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightSource, "__getitem__", refuse_to_read)


def needs(checkpoint: Path, output: Path, dtype: str = "fp16") -> Preflight:
    graphs = GraphFactory(open_checkpoint(checkpoint), ExportOptions(dtype=dtype))  # type: ignore[arg-type]
    return preflight(graphs, output, [PixelSize(256, 256)], Defaults())


@pytest.mark.usefixtures("unreadable")
def test_nothing_is_read_for_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    lines = "\n".join(needs(tiny_checkpoint, tmp_path / "bundle").lines())
    for word in ("memory", "disk", "time", "256x256", "stored", "replayed"):
        assert word in lines


@pytest.mark.usefixtures("unreadable")
def test_too_little_memory_is_refused_before_anything_is_read(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fam_export.preflight.free_memory_bytes", lambda: 10_000_000)
    with pytest.raises(ExportError, match="not enough memory .*10 MB free.*--no-preflight"):
        export(open_checkpoint(tiny_checkpoint), tmp_path / "bundle", scales=["2"])
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("unreadable")
def test_too_small_a_disk_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = DiskUsage(10**12, 10**12, 1000)
    monkeypatch.setattr("fam_export.preflight.shutil.disk_usage", lambda path: full)
    with pytest.raises(StorageError, match="not enough space .*--no-preflight"):
        export(open_checkpoint(tiny_checkpoint), tmp_path / "bundle", scales=["2"])
    assert not any(tmp_path.iterdir())


def test_weights_are_those_of_the_bundle(tiny: Exported, tmp_path: Path) -> None:
    estimate = needs(tiny.checkpoint, tmp_path / "bundle", "fp32").estimate
    written = (tiny.bundle / "unet/weights.bin").stat().st_size
    assert estimate.unet_bytes == pytest.approx(written, rel=0.1)
    taps = Bundle.open(tiny.bundle).manifest.taps.layers
    by_hand = sum(2 * 2 * 4 * layer.token_count * layer.channels for layer in taps)
    assert estimate.targets[0].stored_attention_bytes_per_step == by_hand


@pytest.mark.slow
def test_estimated_activations_of_a_real_architecture() -> None:
    from diffusers import UNet2DConditionModel

    config = configuration_named("sd15").read("unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    shapes = {name: p.shape for name, p in unet.named_parameters()}
    defer(unet, Zeros(shapes), torch.float16)
    options = ExportOptions(dtype="fp16")
    facts = unet_facts(unet, 8, options)
    size = PixelSize(2 * facts.native.height, 2 * facts.native.width)
    definition = target_step(unet, facts, Target.for_size(size.height, size.width), options)
    traced = traced_graph(definition).activation_bytes
    assert activation_elements(config, facts.latent_of(size)) * 2 * 2 == pytest.approx(
        traced, rel=0.15
    )


def test_estimate_of_an_added_target_has_no_weights(tiny_checkpoint: Path) -> None:
    graphs = GraphFactory(open_checkpoint(tiny_checkpoint), ExportOptions())
    whole = estimate_export(graphs, [PixelSize(256, 256)], extends=False)
    added = estimate_export(graphs, [PixelSize(256, 256)], extends=True)
    assert set(added.seconds) == {"kernels-256x256", "upsample-256x256", "target-256x256"}
    assert set(added.seconds) < set(whole.seconds)
    assert added.disk_bytes < whole.disk_bytes


def test_time_left_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fam_export.progress.time.monotonic", lambda: now)
    left = TimeLeft({"a": 300, "b": 300, "c": 300})
    left.begin("a")
    assert left.text() == "15 min left"
    now = 600.0  # twice as long as estimated
    left.end(resumed=False)
    left.begin("b")
    assert left.text() == "19 min left"
    left.end(resumed=True)  # costs nothing, and says nothing about the pace
    left.begin("c")
    assert left.text() == "10 min left"
    now = 10_000.0
    assert left.text() == "less than a minute left"


@pytest.mark.usefixtures("unreadable")
def test_scheduler_that_no_sampler_does_is_refused_first(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("sd15", tmp_path / "tiny")
    file = checkpoint / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text("utf-8"))
    write_json(file, {**config, "beta_schedule": "sigmoid"})
    with pytest.raises(FamError, match="sigmoid"):
        export(open_checkpoint(checkpoint), tmp_path / "bundle", scales=["2"])
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("unreadable")
def test_finished_export_needs_no_memory(tiny: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fam_export.preflight.free_memory_bytes", lambda: 10_000_000)
    result = export(open_checkpoint(tiny.checkpoint), tiny.bundle, scales=["2"])
    assert result.added == ()
