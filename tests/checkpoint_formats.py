"""A tiny checkpoint folder in the other forms that people have: one file, shards, half precision.

The way back from diffusers' names to the original ones stands here for the tests alone; that it is
right is shown by diffusers, which loads the file to the folder's weights.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_original(state: State, layers_per_block: int) -> State:
    """The UNet's weights under the names of the original implementation."""
    return {original_unet_name(name, state, layers_per_block): state[name] for name in state}


def original_unet_name(name: str, names: State, layers: int) -> str:
    """The original name of one weight; `names` has all of them."""
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        where, block, kind, layer, rest = match.groups()
        index = int(block) * (layers + 1) + int(layer) + (where == "down")
        side = "input" if where == "down" else "output"
        inner = resnet_original(rest) if kind == "resnets" else rest
        return f"{side}_blocks.{index}.{int(kind == 'attentions')}.{inner}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, layer, rest = match.groups()
        index = 2 * int(layer) if kind == "resnets" else 1
        return f"middle_block.{index}.{resnet_original(rest) if kind == 'resnets' else rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    match = re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name)
    assert match is not None, name
    block = int(match[1])
    attends = any(other.startswith(f"up_blocks.{block}.attentions") for other in names)
    return f"output_blocks.{block * (layers + 1) + layers}.{1 + attends}.conv.{match[2]}"


def resnet_original(rest: str) -> str:
    """A name inside a residual block."""
    layer, ending = rest.rsplit(".", 1)
    return f"{RESNET[layer]}.{ending}"


def vae_original(state: State, blocks: int = 4) -> State:
    """The VAE's weights under their original names; attention as 1 x 1 convolutions."""
    result = {}
    for name, tensor in state.items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        for old, new in (("resnets", "block"), ("upsamplers.0", "upsample")):
            name = re.sub(
                rf"up_blocks\.(\d+)\.{re.escape(old)}",
                lambda match, new=new: f"up.{blocks - 1 - int(match[1])}.{new}",
                name,
            )
        name = re.sub(
            r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name
        )
        if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
            name = f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        result[name] = tensor
    return result


def open_clip_original(state: State) -> State:
    """A text encoder's weights under OpenCLIP's names: fused projections, a transposed one."""
    result = {}
    for name, tensor in state.items():
        name = name.removeprefix("text_model.").replace("encoder.layers.", "transformer.resblocks.")
        for ours, theirs in (
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            (".fc1.", ".c_fc."),
            (".fc2.", ".c_proj."),
            ("self_attn.out_proj", "attn.out_proj"),
            ("final_layer_norm", "ln_final"),
            ("embeddings.token_embedding.weight", "token_embedding.weight"),
            ("embeddings.position_embedding.weight", "positional_embedding"),
        ):
            name = name.replace(ours, theirs)
        if match := re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            own = next(key for key, value in state.items() if value is tensor)
            parts = [state[own.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            result[f"{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif name == "text_projection.weight":
            result["text_projection"] = tensor.T.contiguous()
        elif not re.search(r"self_attn\.[kv]_proj", name):
            result[name] = tensor
    return result


def clip_original(state: State) -> State:
    """A text encoder as OpenAI's CLIP in transformers has had it: prefix, and position ids."""
    names = {f"text_model.{name.removeprefix('text_model.')}": name for name in state}
    result = {name: state[own] for name, own in names.items()}
    result["text_model.embeddings.position_ids"] = torch.arange(77)[None]
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
