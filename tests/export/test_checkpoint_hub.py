"""Checkpoints by their id, from a cache laid out by hand; nothing here reaches a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from fam_export.checkpoint import open_checkpoint
from fam_export.checkpoint.hub import wanted_files
from fam_runtime.errors import CheckpointError
from tests.checkpoint_formats import add_half_precision, weight_file
from tests.checkpoints import make_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of ``org/tiny``: links to blobs, as the library makes them."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = make_checkpoint("sd15", tmp_path / "tiny")
    add_half_precision(folder)
    model = cache / "models--org--tiny"
    snapshot = model / "snapshots" / COMMIT
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = model / "blobs" / f"{number:064x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(COMMIT)
    return snapshot


def test_from_the_cache(cached: Path) -> None:
    checkpoint = open_checkpoint("org/tiny", prefer="fp16")
    assert (checkpoint.name, checkpoint.source, checkpoint.root) == ("tiny", "org/tiny", cached)
    assert checkpoint.describe() == "Stable Diffusion, diffusers folder, fp16"
    assert checkpoint.fingerprint() == open_checkpoint(cached, prefer="fp16").fingerprint()


def test_what_is_not_whole_cannot_be_used_offline(cached: Path) -> None:
    for file in (cached / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match="could be fetched .* hf download org/tiny --include"):
        open_checkpoint("org/tiny")


def test_missing_id_says_how_to_fetch_it(cached: Path) -> None:
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint("org/other", prefer="fp16")
    message = str(refusal.value)
    assert "hf download org/other" in message and "'*/*model.fp16.safetensors'" in message
    assert "HF_ENDPOINT" in message and "HF_HOME" in message


@pytest.mark.parametrize("model", ["a/b/c", "/a/b", "../b", "name", "org/.."])
def test_what_is_no_id(cached: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        open_checkpoint(model)


SMALL = ["model_index.json", "tokenizer/merges.txt", "unet/config.json"]
FULL = ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
HALF = ["text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"]
SHARDS = [
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
]
STRAYS = [
    "v1-5-pruned.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/model.onnx",
    "safety_checker/model.safetensors",
    "text_encoder/pytorch_model.bin",
]


def test_what_is_fetched() -> None:
    """One precision, nothing that is not read, never a pickle."""
    assert sorted(wanted_files(SMALL + FULL + HALF + STRAYS, "fp32")) == sorted(SMALL + FULL)
    assert sorted(wanted_files(SMALL + FULL + HALF + STRAYS, "fp16")) == sorted(SMALL + HALF)
    assert sorted(wanted_files(SMALL + FULL + STRAYS, "fp16")) == sorted(SMALL + FULL)
    assert sorted(wanted_files(SMALL + HALF + STRAYS, "fp32")) == sorted(SMALL + HALF)
    assert sorted(wanted_files(SHARDS + HALF[:1], "fp32")) == sorted(SHARDS + HALF[:1])


def test_a_folder_goes_before_an_id(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_checkpoint("sd15", tmp_path / "org/tiny")
    weight_file(tmp_path / "org/tiny", "unet").unlink()
    with pytest.raises(CheckpointError, match="the weights are missing"):
        open_checkpoint("org/tiny")
