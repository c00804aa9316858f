"""Every form of a checkpoint gives the weights that diffusers and transformers load from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from fam_export.checkpoint import Checkpoint, open_checkpoint
from fam_runtime.errors import CheckpointError
from tests.checkpoint_formats import (
    add_half_precision,
    clip_original,
    parts,
    read_part,
    weight_file,
    write_single_file,
)
from tests.checkpoints import KINDS, make_checkpoint

State = dict[str, torch.Tensor]
CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp("whole") / request.param)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def from_pretrained(folder: Path, part: str, dtype: torch.dtype, variant: str | None) -> State:
    """What the part's own library loads."""
    name = "dtype" if part.startswith("text") else "torch_dtype"
    options: dict[str, Any] = {name: dtype, "variant": variant, "local_files_only": True}
    state: State = CLASSES[part].from_pretrained(folder / part, **options).state_dict()
    return state


def assert_weights(checkpoint: Checkpoint, part: str, expected: State) -> None:
    weights = checkpoint.weights(part)
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert weights.stored_dtype(name) == weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor), f"{part}.{name}"
    assert weights.nbytes == sum(tensor.nbytes for tensor in expected.values())


def test_folder(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    for part in parts(folder):
        assert_weights(checkpoint, part, from_pretrained(folder, part, torch.float32, None))


def test_half_precision_is_taken_where_preferred_or_alone(folder: Path) -> None:
    add_half_precision(folder)
    stray = {"stray": torch.zeros(1)}
    save_file(stray, folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    for part in parts(folder):
        full = from_pretrained(folder, part, torch.float32, None)
        half = from_pretrained(folder, part, torch.float16, "fp16")
        assert_weights(open_checkpoint(folder), part, full)
        assert_weights(open_checkpoint(folder, prefer="fp16"), part, half)
        weight_file(folder, part).unlink()
        assert_weights(open_checkpoint(folder), part, half)


def shard(folder: Path, part: str, variant: str | None = None) -> None:
    """Split the weights of a part over files, as its library does."""
    dtype = torch.float16 if variant else torch.float32
    name = "dtype" if part.startswith("text") else "torch_dtype"
    module = CLASSES[part].from_pretrained(folder / part, **{name: dtype})
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    total = sum(tensor.nbytes for tensor in module.state_dict().values())
    module.save_pretrained(folder / part, max_shard_size=total // 3, variant=variant)
    assert len(list((folder / part).glob("*.safetensors"))) > 1


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(folder: Path, variant: str | None) -> None:
    for part in parts(folder):
        shard(folder, part, variant)
    checkpoint = open_checkpoint(folder)
    dtype = torch.float16 if variant else torch.float32
    for part in parts(folder):
        assert_weights(checkpoint, part, from_pretrained(folder, part, dtype, variant))


def test_shard_elsewhere_is_refused(folder: Path) -> None:
    shard(folder, "unet")
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["conv_in.bias"] = "../vae/diffusion_pytorch_model.safetensors"
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="names no files beside it"):
        open_checkpoint(folder)


def test_names_of_older_files(folder: Path) -> None:
    """Text encoders under another prefix, with position ids; attention of VAEs before 0.15."""
    text = weight_file(folder, "text_encoder")
    save_file(clip_original(load_file(text)), text)
    vae = weight_file(folder, "vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = read_part(folder, "vae")
    for now, then in old.items():
        state = {
            name.replace(f"attentions.0.{now}.", f"attentions.0.{then}."): tensor
            for name, tensor in state.items()
        }
    assert any("proj_attn" in name for name in state)
    save_file(state, vae)
    checkpoint = open_checkpoint(folder)
    for part in ("text_encoder", "vae"):
        assert_weights(checkpoint, part, from_pretrained(folder, part, torch.float32, None))


def from_single_file(path: Path, folder: Path) -> Any:
    """The pipeline that diffusers makes of the file."""
    options: dict[str, Any] = {"config": str(folder), "local_files_only": True}
    if "text_encoder_2" in parts(folder):
        return StableDiffusionXLPipeline.from_single_file(str(path), **options)
    return StableDiffusionPipeline.from_single_file(str(path), safety_checker=None, **options)


def test_single_file(folder: Path, tmp_path: Path) -> None:
    path = write_single_file(folder, tmp_path / "one.safetensors")
    pipeline = from_single_file(path, folder)
    one = open_checkpoint(path, config=folder)
    assert (one.name, one.source, one.family) == ("one", str(path), open_checkpoint(folder).family)
    assert one.describe().endswith("single file, fp32")
    for part in parts(folder):
        state = getattr(pipeline, part).state_dict()
        assert_weights(one, part, state)
        on_disk = read_part(folder, part)
        assert part.startswith("text") or all(torch.equal(state[n], on_disk[n]) for n in on_disk)


def test_modules_compute_what_the_libraries_compute(folder: Path) -> None:
    """Buffers that no file holds are there, and half precision is half precision."""
    checkpoint = open_checkpoint(folder)
    ids = torch.randint(0, 100, (2, 77), generator=torch.Generator().manual_seed(0))
    for index, part in enumerate(p for p in parts(folder) if p.startswith("text")):
        expected = CLASSES[part].from_pretrained(folder / part)(ids)[0]
        assert torch.equal(checkpoint.load_text_encoder(index)(ids)[0], expected)
    for module in (checkpoint.load_unet(torch.float16), checkpoint.load_vae(torch.float16)):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float16}
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    empty = checkpoint.empty_module("unet")
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_fingerprint_is_of_what_is_read(folder: Path, tmp_path: Path) -> None:
    before = open_checkpoint(folder).fingerprint()
    add_half_precision(folder)
    assert open_checkpoint(folder).fingerprint() == before
    assert open_checkpoint(folder, prefer="fp16").fingerprint() != before
    path = write_single_file(folder, tmp_path / "one.safetensors")
    one = open_checkpoint(path, config=folder).fingerprint()
    scheduler = folder / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + " ")
    assert len({before, one, open_checkpoint(path, config=folder).fingerprint()}) == 3
