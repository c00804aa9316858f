"""A tiny checkpoint folder in the other forms that people have: one file, shards, half precision.

That the way back from diffusers' names to the original ones is right is shown by diffusers, which
loads the file to the folder's weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fam_bench.original_layout import (
    OriginalTensor,
    clip_tensors,
    open_clip_tensors,
    unet_tensors,
    vae_tensors,
)

State = dict[str, torch.Tensor]


def unet_original(state: State, layers_per_block: int) -> State:
    """The UNet's weights under the names of the original implementation."""
    return original_state(unet_tensors(state, layers_per_block), state)


def vae_original(state: State) -> State:
    """The VAE's weights under their original names; attention as 1 x 1 convolutions."""
    return original_state(vae_tensors({n: tuple(t.shape) for n, t in state.items()}), state)


def open_clip_original(state: State) -> State:
    """A text encoder's weights under OpenCLIP's names: fused projections, a transposed one."""
    return original_state(open_clip_tensors(state), state)


def clip_original(state: State) -> State:
    """A text encoder as OpenAI's CLIP in transformers has had it: prefix, and position ids."""
    result = original_state(clip_tensors(state), state)
    result["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return result


def original_state(tensors: list[OriginalTensor], state: State) -> State:
    """The weights in the original layout, made of those in `state`."""
    result = {}
    for tensor in tensors:
        values = torch.cat([state[source] for source in tensor.sources])
        shape = tensor.shape({name: tuple(own.shape) for name, own in state.items()})
        transposed = tensor.layout == "transposed"
        result[tensor.name] = values.T.contiguous() if transposed else values.reshape(shape)
    return result


def write_single_file(
    folder: Path,
    path: Path,
    extra: State | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """The checkpoint in `folder` as one file at `path`, in the original layout."""
    layers = json.loads((folder / "unet/config.json").read_text())["layers_per_block"]
    xl = (folder / "text_encoder_2").is_dir()
    open_clip = not xl and "!" in (folder / "tokenizer/special_tokens_map.json").read_text()
    sections = {
        "model.diffusion_model.": unet_original(read_part(folder, "unet"), layers),
        "first_stage_model.": vae_original(read_part(folder, "vae")),
    }
    first = read_part(folder, "text_encoder")
    if xl:
        sections["conditioner.embedders.0.transformer."] = clip_original(first)
        second = open_clip_original(read_part(folder, "text_encoder_2"))
        sections["conditioner.embedders.1.model."] = second
    elif open_clip:
        sections["cond_stage_model.model."] = open_clip_original(first)
    else:
        sections["cond_stage_model.transformer."] = clip_original(first)
    tensors = {prefix + name: t for prefix, part in sections.items() for name, t in part.items()}
    tensors |= {"model_ema.decay": torch.ones(()), **(extra or {})}
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path, metadata)
    return path


def read_part(folder: Path, part: str) -> State:
    """The weights of a part that is in one file in full precision."""
    return load_file(weight_file(folder, part))


def weight_file(folder: Path, part: str) -> Path:
    """Where the weights of a part are before they are sharded."""
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    return folder / part / f"{stem}.safetensors"


def parts(folder: Path) -> list[str]:
    """The parts that have weights."""
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    return [name for name in names if (folder / name).is_dir()]


def add_half_precision(folder: Path) -> None:
    """Put a second set of weights, in half precision, beside the first."""
    for part in parts(folder):
        half = {name: tensor.half() for name, tensor in read_part(folder, part).items()}
        save_file(half, weight_file(folder, part).with_suffix(".fp16.safetensors"))
