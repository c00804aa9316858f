"""A latent consistency model from checkpoint to picture: no guidance batch, its own sampler."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fam_export.cli import main
from fam_runtime import FamPipeline
from tests.checkpoints import RECIPES, make_checkpoint, make_unet, write_json


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lcm")
    checkpoint = make_checkpoint("sd15", root / "lcm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = make_unet(RECIPES["sd15"], time_cond_proj_dim=8)
    unet.save_pretrained(checkpoint / "unet")
    scheduler = checkpoint / "scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text("utf-8"))
    write_json(scheduler, {**config, "_class_name": "LCMScheduler"})
    command = ["--model", str(checkpoint), "--scale", "2", "-q", "-o", str(root / "bundle")]
    assert main(command) == 0
    return root / "bundle"


@pytest.mark.slow
def test_distilled_checkpoint_runs_without_guidance(bundle: Path) -> None:
    with FamPipeline.from_pretrained(bundle, progress=False, num_threads=1) as pipe:
        manifest = pipe.bundle.manifest
        assert not manifest.model.guidance and manifest.model.guidance_embedding
        assert manifest.defaults.scheduler == "lcm"
        assert manifest.defaults.num_inference_steps == 4
        spec = manifest.graphs["unet/native.onnx"]
        assert {"guidance_scale", "prompt_embeds"} <= {item.name for item in spec.inputs}
        (prompt,) = (item for item in spec.inputs if item.name == "prompt_embeds")
        assert prompt.shape[0] == "B"
        usual = pipe("a cat", seed=1, output_type="latent").latents
        stronger = pipe("a cat", seed=1, guidance_scale=12.0, output_type="latent").latents
    assert np.isfinite(usual).all()
    assert float(np.abs(usual - stronger).max()) > 1e-3, "the embedded scale acts"


def test_guidance_cannot_be_asked_of_it(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(bundle.parent / "lcm"), "--guidance", "-o", str(tmp_path / "b")]
    assert main(command) == 2
    assert "takes the guidance scale as a condition" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
