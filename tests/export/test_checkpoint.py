"""Opening a checkpoint: what is refused, and with which words."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from fam_export.checkpoint import open_checkpoint
from fam_runtime.errors import CheckpointError
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-sd15"
    make_checkpoint("sd15", folder, seed=0)
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny-sd15"))


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    return str(refusal.value)


def weights_of(checkpoint: Path, part: str) -> Path:
    return next((checkpoint / part).glob("*.safetensors"))


def test_a_whole_checkpoint_opens(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    assert (opened.name, opened.family) == ("tiny-sd15", "sd")


def test_missing_path(tmp_path: Path) -> None:
    assert "there is no checkpoint at" in refused(tmp_path / "nowhere")


def test_folder_without_index(tmp_path: Path) -> None:
    assert "model_index.json is missing" in refused(tmp_path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_pickle_file_is_refused_unread(tmp_path: Path, name: str) -> None:
    pickle = tmp_path / name
    pickle.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "is a pickle" in refused(pickle)


def test_folder_with_pickles_only_is_refused(checkpoint: Path) -> None:
    weights = weights_of(checkpoint, "unet")
    weights.rename(weights.with_suffix(".bin"))
    assert "is a pickle" in refused(checkpoint)


def test_missing_weights(checkpoint: Path) -> None:
    weights_of(checkpoint, "vae").unlink()
    assert "the weights are missing" in refused(checkpoint)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(checkpoint: Path, keep: int) -> None:
    weights = weights_of(checkpoint, "unet")
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "is truncated or damaged" in refused(checkpoint)


def test_another_kind_of_pipeline(checkpoint: Path) -> None:
    index = checkpoint / "model_index.json"
    document = json.loads(index.read_text())
    index.write_text(json.dumps(document | {"_class_name": "FluxPipeline"}))
    assert "this pipeline is not supported | got 'FluxPipeline'" in refused(checkpoint)


def test_inpainting_unet_is_refused(checkpoint: Path) -> None:
    config = checkpoint / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    assert "in_channels is not supported" in refused(checkpoint)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_older_vae_has_the_default_scaling_factor(checkpoint: Path) -> None:
    """SD 1.5 was published without one; diffusers' class has it."""
    config = json.loads((checkpoint / "vae/config.json").read_text())
    assert config.pop("scaling_factor") == 0.18215
    (checkpoint / "vae/config.json").write_text(json.dumps(config))
    assert open_checkpoint(checkpoint).config("vae")["scaling_factor"] == 0.18215


def test_weights_of_another_shape(checkpoint: Path) -> None:
    edit(checkpoint / "unet/config.json", cross_attention_dim=24)
    assert "has another shape than its configuration says" in refused(checkpoint)
    edit(checkpoint / "unet/config.json", layers_per_block=2)
    assert re.search(r"unet: \d+ of \d+ weights are missing", refused(checkpoint))


EULER = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"_class_name": "PNDMScheduler"}, None),
        ({"_class_name": "LCMScheduler"}, ("lcm", "lcm", 4)),
        ({"_class_name": "EulerDiscreteScheduler", **EULER}, ("turbo/lightning", "euler", 4)),
        (
            {"_class_name": "EulerAncestralDiscreteScheduler", **EULER},
            ("turbo/lightning", "euler-a", 4),
        ),
        ({"_class_name": "EulerDiscreteScheduler", **EULER, "timestep_spacing": "leading"}, None),
        ({"_class_name": "EulerDiscreteScheduler", **EULER, "rescale_betas_zero_snr": True}, None),
    ],
)
def test_distilled_checkpoints_are_recognised(
    checkpoint: Path, scheduler: dict[str, object], expected: tuple[object, ...] | None
) -> None:
    edit(checkpoint / "scheduler/scheduler_config.json", **scheduler)
    found = open_checkpoint(checkpoint).distilled
    assert (found and (found.kind, found.scheduler, found.num_inference_steps)) == expected


def test_guidance_embedding_means_lcm(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "unet/config.json").read_text())
    unet = UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 8})
    unet.save_pretrained(checkpoint / "unet")
    found = open_checkpoint(checkpoint).distilled
    assert found is not None and found.kind == "lcm" and "time_cond_proj_dim" in found.reason


def test_configuration_beside_a_folder(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="brings configurations of its own"):
        open_checkpoint(checkpoint, config=checkpoint)


def test_fingerprint_follows_the_content(checkpoint: Path) -> None:
    before = open_checkpoint(checkpoint).fingerprint()
    config = checkpoint / "scheduler/scheduler_config.json"
    config.write_text(config.read_text() + " ")
    assert open_checkpoint(checkpoint).fingerprint() != before
