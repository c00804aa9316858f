"""What a single file is, told by its header alone; real sizes, without a byte of weights."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fam_export.checkpoint import Checkpoint, open_checkpoint
from fam_runtime.errors import CheckpointError
from tests.checkpoint_formats import (
    State,
    clip_original,
    open_clip_original,
    unet_original,
    vae_original,
    write_single_file,
)
from tests.checkpoints import make_checkpoint

Shapes = dict[str, tuple[int, ...]]
CONFIGS = Path(__file__).parents[2] / "export/fam_export/checkpoint/original_configs"
UNET = "model.diffusion_model."


def write_empty(path: Path, shapes: Shapes, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file in half precision whose zeros take no space on the disk."""
    header: dict[str, object] = {"__metadata__": metadata or {}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


def original_shapes(kind: str) -> Shapes:
    """Every tensor of the published file of `kind`: diffusers' modules under original names."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def read(part: str) -> dict[str, object]:
        config: dict[str, object] = json.loads((CONFIGS / kind / part / "config.json").read_text())
        return config

    def text(make: type[nn.Module], part: str) -> State:
        return make(CLIPTextConfig(**read(part))).state_dict()

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(read("unet")).state_dict()
        sections: dict[str, State] = {
            UNET: unet_original(unet, 2),
            "first_stage_model.": vae_original(AutoencoderKL.from_config(read("vae")).state_dict()),
        }
        if kind == "sdxl":
            first = clip_original(text(CLIPTextModel, "text_encoder"))
            second = open_clip_original(text(CLIPTextModelWithProjection, "text_encoder_2"))
            sections["conditioner.embedders.0.transformer."] = first
            sections["conditioner.embedders.1.model."] = second
        elif kind == "sd15":
            first = clip_original(text(CLIPTextModel, "text_encoder"))
            sections["cond_stage_model.transformer."] = first
        else:
            first = open_clip_original(text(CLIPTextModel, "text_encoder"))
            sections["cond_stage_model.model."] = first
    return {prefix + n: tuple(t.shape) for prefix, own in sections.items() for n, t in own.items()}


@pytest.fixture(scope="module")
def shapes() -> dict[str, Shapes]:
    return {kind: original_shapes(kind) for kind in ("sd15", "sd21", "sdxl")}


def opened(path: Path, shapes: Shapes, **metadata: str) -> Checkpoint:
    return open_checkpoint(write_empty(path, shapes, metadata))


@pytest.mark.parametrize(
    ("kind", "description", "unet_tensors", "native"),
    [
        ("sd15", "Stable Diffusion 1.x, single file, fp16", 686, 64),
        ("sd21", "Stable Diffusion 2.x, single file, fp16", 686, 96),
        ("sdxl", "Stable Diffusion XL, single file, fp16", 1680, 128),
    ],
)
def test_real_sizes(
    tmp_path: Path,
    shapes: dict[str, Shapes],
    kind: str,
    description: str,
    unet_tensors: int,
    native: int,
) -> None:
    checkpoint = opened(tmp_path / "model.safetensors", shapes[kind])
    assert checkpoint.describe().startswith(description)
    assert len(checkpoint.weights("unet")) == unet_tensors
    assert checkpoint.config("unet")["sample_size"] == native
    assert sum(checkpoint.weights(part).nbytes for part in checkpoint.parts) <= sum(
        2 * prod(shape) for shape in shapes[kind].values()
    )


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line) * 1024


def test_one_tensor_is_read_at_a_time(tmp_path: Path, shapes: dict[str, Shapes]) -> None:
    checkpoint = opened(tmp_path / "model.safetensors", shapes["sdxl"])
    before = anonymous_bytes()
    weights = checkpoint.weights("unet")
    largest = sorted(weights, key=lambda name: prod(weights.shape(name)))[-20:]
    assert sum(weights[name].count_nonzero() for name in largest) == 0
    assert sum(2 * prod(weights.shape(name)) for name in largest) > 500_000_000
    assert anonymous_bytes() - before < 150_000_000


def test_tokens(tmp_path: Path, shapes: dict[str, Shapes]) -> None:
    """CLIP's published ids; SD 2.x and SDXL's second encoder are padded with "!"."""
    cat = [49406, 320, 1125, 539, 320, 2368, 49407]
    for kind, pads in (("sd15", [49407]), ("sd21", [0]), ("sdxl", [49407, 0])):
        checkpoint = opened(tmp_path / f"{kind}.safetensors", shapes[kind])
        for index, pad in enumerate(pads):
            tokens = checkpoint.load_tokenizer(index)("a photo of a cat", padding="max_length")
            assert tokens.input_ids == cat + [pad] * 70


def test_the_two_models_of_sd2(tmp_path: Path, shapes: dict[str, Shapes]) -> None:
    path = tmp_path / "model.safetensors"
    assumed = opened(path, shapes["sd21"])
    assert assumed.scheduler_config["prediction_type"] == "v_prediction"
    assert "taken for the 768-pixel model" in assumed.describe()
    base = opened(path, shapes["sd21"], **{"modelspec.architecture": "stable-diffusion-v2-512"})
    said = open_checkpoint(write_empty(path, shapes["sd21"]), config=Path("sd21-base"))
    for checkpoint in (base, said):
        assert checkpoint.scheduler_config["prediction_type"] == "epsilon"
        assert checkpoint.config("unet")["sample_size"] == 64 and checkpoint.notes == ()


def test_marks_of_v_prediction(tmp_path: Path, shapes: dict[str, Shapes]) -> None:
    marked = shapes["sdxl"] | {"v_pred": (), "ztsnr": ()}
    config = opened(tmp_path / "model.safetensors", marked).scheduler_config
    assert config["prediction_type"] == "v_prediction" and config["rescale_betas_zero_snr"] is True


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}, "is an inpainting model"),
        ({f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "is a flux-schnell"),
        ({f"{UNET}joint_blocks.37.x_block.mlp.fc1.weight": (8, 8)}, "is a sd35_large model"),
        ({"conv_in.weight": (320, 4, 3, 3)}, "is a UNet without VAE and text encoders"),
        ({"input_blocks.0.0.weight": (320, 4, 3, 3)}, "is a UNet without VAE and text encoders"),
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "is a VAE alone"),
        ({"lora_unet_proj_in.lora_down.weight": (4, 8)}, "is a LoRA"),
        ({"something": (1,)}, "is no Stable Diffusion checkpoint"),
    ],
)
def test_other_files_are_named(tmp_path: Path, names: Shapes, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        opened(tmp_path / "model.safetensors", names)


def test_pruned_files(tmp_path: Path, shapes: dict[str, Shapes]) -> None:
    for kind, prefix, part in (
        ("sd15", "first_stage_model.", "vae"),
        ("sd15", "cond_stage_model.", "text encoder"),
        ("sdxl", "conditioner.embedders.", "text encoder"),
    ):
        rest = {name: s for name, s in shapes[kind].items() if not name.startswith(prefix)}
        with pytest.raises(CheckpointError, match=f"holds no {part}"):
            opened(tmp_path / "model.safetensors", rest)


def test_truncated_file(tmp_path: Path) -> None:
    folder = make_checkpoint("sd15", tmp_path / "tiny")
    path = write_single_file(folder, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated or damaged"):
        open_checkpoint(path, config=folder)


def test_missing_configurations(tmp_path: Path) -> None:
    folder = make_checkpoint("sd15", tmp_path / "tiny")
    path = write_single_file(folder, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="there are no configurations at .*sd21-base"):
        open_checkpoint(path, config=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="weights are missing .* has to be given one"):
        open_checkpoint(path)


def test_without_the_prefix_of_clip(tmp_path: Path) -> None:
    """Some finetunes were saved with a transformers that had another name for the encoder."""
    folder = make_checkpoint("sd15", tmp_path / "tiny")
    path = write_single_file(folder, tmp_path / "model.safetensors")
    prefix = "cond_stage_model.transformer."
    state = {n.replace(f"{prefix}text_model.", prefix): t for n, t in load_file(path).items()}
    save_file(state, path)
    weights = open_checkpoint(path, config=folder).weights("text_encoder")
    expected = open_checkpoint(folder).weights("text_encoder")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
