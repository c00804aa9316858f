"""Opening a checkpoint: what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

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


def test_fingerprint_follows_the_content(checkpoint: Path) -> None:
    before = open_checkpoint(checkpoint).fingerprint()
    config = checkpoint / "scheduler/scheduler_config.json"
    config.write_text(config.read_text() + " ")
    assert open_checkpoint(checkpoint).fingerprint() != before
