"""One set of weights in many forms gives one `weights.bin`; a LoRA at 1 gives the fused weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from fam_export.checkpoint import Checkpoint, Lora, open_checkpoint
from fam_export.graph_factory import GraphFactory, GraphName
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_export.shared_weights import write_shared_weights
from tests.checkpoint_formats import write_single_file
from tests.checkpoints import make_checkpoint
from tests.lora_formats import write_lora


def unet_weights(checkpoint: Checkpoint, folder: Path) -> tuple[bytes, bytes]:
    """What an export writes of the UNet: data and table."""
    graphs = GraphFactory(checkpoint, ExportOptions(dtype="fp16"))
    folder.mkdir()
    traced = traced_graph(graphs.definition(GraphName("native")))
    write_shared_weights(traced.model, folder)
    return (folder / "weights.bin").read_bytes(), (folder / "weights.json").read_bytes()


@pytest.mark.slow
def test_every_form_gives_the_same_weights(tmp_path: Path) -> None:
    folder = make_checkpoint("sd15", tmp_path / "folder")
    single = write_single_file(folder, tmp_path / "single.safetensors")
    lora = write_lora(folder, tmp_path / "style.safetensors", "kohya")
    expected = unet_weights(open_checkpoint(folder), tmp_path / "a")
    from_file = open_checkpoint(single, config=folder)
    at_zero = open_checkpoint(single, config=folder, loras=[Lora(lora, 0.0)])
    assert unet_weights(at_zero, tmp_path / "b") == expected
    assert at_zero.fingerprint() == from_file.fingerprint()

    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.load_lora_weights(str(lora))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "fused")
    fused = unet_weights(open_checkpoint(tmp_path / "fused"), tmp_path / "c")
    at_one = open_checkpoint(folder, loras=[Lora(lora, 1.0)])
    assert unet_weights(at_one, tmp_path / "d") == fused != expected
