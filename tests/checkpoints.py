"""Tiny checkpoints with random weights, in the folder format of diffusers, made on the fly.

They keep the traits of the real ones that code can trip over: where attention is, how heads are
counted, whether projections are linear or convolutions, which scheduler file they ship, how their
tokenizers pad. Weights are scaled so that attention is far from uniform and every modulation of
the method changes the picture measurably.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Kind = Literal["sd15", "sd21v", "sdxl"]
KINDS: tuple[Kind, ...] = ("sd15", "sd21v", "sdxl")

NATIVE_LATENT = 16
"""Latent samples along an axis at the native size: 128 pixels."""

MAX_TOKENS = 77
WEIGHT_GAINS = {
    "attn1.to_q.weight": 3.0,
    "attn1.to_out.0.weight": 2.0,
    "conv_out.weight": 0.5,
}
"""Factors by the end of a parameter's name: the logits of self-attention spread over a few units
and its result weighs in the residual stream, as in a trained UNet. The small output keeps sampling
tame: in two stages of five steps an error of the first latent grows by 1 (sd15, sdxl) to 18
(sd21v), measured; without it, by thousands."""

SCALED_LINEAR: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Recipe:
    """What makes a kind of checkpoint."""

    pipeline: str
    unet: dict[str, Any]
    scheduler: tuple[str, dict[str, Any]]
    text_layers: tuple[int, ...]
    text_widths: tuple[int, ...]
    pad_tokens: tuple[str, ...]
    scaling_factor: float
    model_index: dict[str, Any] = field(default_factory=dict)


RECIPES: dict[Kind, Recipe] = {
    "sd15": Recipe(
        pipeline="StableDiffusionPipeline",
        unet={
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            "block_out_channels": (16, 16, 32, 32),
            # The configuration's name is historical: this is the number of heads, as in SD 1.5.
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
        },
        scheduler=("PNDMScheduler", SCALED_LINEAR),
        text_layers=(2,),
        text_widths=(16,),
        pad_tokens=("<|endoftext|>",),
        scaling_factor=0.18215,
        model_index={
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        },
    ),
    "sd21v": Recipe(
        pipeline="StableDiffusionPipeline",
        unet={
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            "block_out_channels": (16, 16, 32, 32),
            "attention_head_dim": (1, 2, 4, 4),
            "cross_attention_dim": 24,
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        scheduler=("DDIMScheduler", {**SCALED_LINEAR, "prediction_type": "v_prediction"}),
        text_layers=(1,),
        text_widths=(24,),
        pad_tokens=("!",),
        scaling_factor=0.18215,
        model_index={
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        },
    ),
    "sdxl": Recipe(
        pipeline="StableDiffusionXLPipeline",
        unet={
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (16, 16, 32),
            "attention_head_dim": (1, 2, 4),
            "transformer_layers_per_block": (1, 1, 2),
            "cross_attention_dim": 40,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 6 * 8,
        },
        scheduler=(
            "EulerDiscreteScheduler",
            {
                **SCALED_LINEAR,
                "prediction_type": "epsilon",
                "interpolation_type": "linear",
                "timestep_spacing": "leading",
                "use_karras_sigmas": False,
                "sample_max_value": 1.0,
            },
        ),
        text_layers=(2, 3),
        text_widths=(16, 24),
        pad_tokens=("<|endoftext|>", "!"),
        scaling_factor=0.13025,
        model_index={
            "force_zeros_for_empty_prompt": True,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
        },
    ),
}


def make_checkpoint(kind: Kind, directory: Path, seed: int = 0) -> Path:
    """Write a checkpoint of `kind` under `directory`; the same seed gives the same weights.

    Returns:
        `directory`, which diffusers' pipelines and fam-export can load.
    """
    recipe = RECIPES[kind]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make_unet(recipe).save_pretrained(directory / "unet")
        make_vae(recipe).save_pretrained(directory / "vae")
        for index in range(len(recipe.text_layers)):
            suffix = "" if index == 0 else f"_{index + 1}"
            vocabulary = write_tokenizer(directory / f"tokenizer{suffix}", recipe.pad_tokens[index])
            encoder = make_text_encoder(recipe, index, vocabulary)
            encoder.save_pretrained(directory / f"text_encoder{suffix}")
    name, config = recipe.scheduler
    write_json(
        directory / "scheduler" / "scheduler_config.json",
        {"_class_name": name, "_diffusers_version": "0.19.0", **config},
    )
    write_json(directory / "model_index.json", model_index(recipe))
    return directory


def make_unet(recipe: Recipe, **changes: Any) -> UNet2DConditionModel:
    """The UNet of `recipe` with enlivened weights; `changes` go into its configuration."""
    unet = UNet2DConditionModel(
        sample_size=NATIVE_LATENT,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        **{**recipe.unet, **changes},
    )
    enliven(unet)
    for name, parameter in unet.named_parameters():
        for ending, gain in WEIGHT_GAINS.items():
            if name.endswith(ending):
                parameter.data.mul_(gain)
    return unet.eval()


def make_vae(recipe: Recipe) -> AutoencoderKL:
    """A VAE with 8 pixels per latent sample and attention in its middle block."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8 * NATIVE_LATENT,
        scaling_factor=recipe.scaling_factor,
    )
    enliven(vae)
    return vae.eval()


def make_text_encoder(
    recipe: Recipe, index: int, vocabulary: int
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Text encoder number `index`; the second one has a projection, as SDXL's does."""
    width = recipe.text_widths[index]
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=recipe.text_layers[index],
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="quick_gelu" if index == 0 else "gelu",
        bos_token_id=vocabulary - 2,
        # 2 is what the real configurations say; transformers then pools at the largest token id.
        eos_token_id=2,
        pad_token_id=1,
    )
    model = CLIPTextModel(config) if index == 0 else CLIPTextModelWithProjection(config)
    enliven(model)
    for name, parameter in model.named_parameters():
        if "embedding" in name:
            parameter.data.mul_(0.7 / parameter.data.std())
    return model.eval()


def enliven(model: nn.Module) -> None:
    """Scale weights so that every layer passes on about what it gets, and nothing is neutral.

    The libraries initialise for training: small weights, zero biases, unit norms. A wrong bias or a
    forgotten norm would go unnoticed, and attention would be uniform.
    """
    for name, parameter in model.named_parameters():
        values = parameter.data
        if values.ndim == 1:
            noise = 0.1 * torch.randn_like(values)
            values.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
        elif "embedding" not in name:
            fan_in = values[0].numel()
            values.copy_(torch.randn_like(values) * fan_in**-0.5)


def write_tokenizer(folder: Path, pad_token: str) -> int:
    """A byte-level BPE tokenizer in the files that CLIP ships; returns the size of its vocabulary.

    The vocabulary is built as CLIP's: bytes, bytes that end a word, merges, start, end (the largest
    id, which is where the encoders pool).
    """
    characters = byte_characters()
    merges = ["t h", "th e</w>", "c a", "ca t</w>", "r e", "re d</w>", "o n</w>"]
    tokens = [*characters, *(f"{c}</w>" for c in characters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad_token,
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": MAX_TOKENS,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
        },
    )
    return len(vocabulary)


def byte_characters() -> list[str]:
    """The printable stand-ins of the 256 bytes, in CLIP's order ("!" is token 0)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def model_index(recipe: Recipe) -> dict[str, Any]:
    """The contents of ``model_index.json``."""
    index: dict[str, Any] = {
        "_class_name": recipe.pipeline,
        "_diffusers_version": "0.19.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", recipe.scheduler[0]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        **recipe.model_index,
    }
    if len(recipe.text_layers) == 2:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    return index


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content`, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
