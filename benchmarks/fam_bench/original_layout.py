"""Where the original implementations of Stable Diffusion keep what diffusers keeps elsewhere.

The way back from diffusers' names to those of a single file. That it is right is shown by
diffusers, which loads such a file to the weights it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Shapes = Mapping[str, tuple[int, ...]]
Layout = Literal["same", "convolution", "transposed"]

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
CLIP_PREFIX, OPEN_CLIP_PREFIX = "cond_stage_model.transformer.", "cond_stage_model.model."
CLIP_PREFIX_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX_XL = "conditioner.embedders.1.model."

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
OPEN_CLIP = {
    "text_model.": "",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    ".fc1.": ".c_fc.",
    ".fc2.": ".c_proj.",
    "self_attn.out_proj": "attn.out_proj",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}


@dataclass(frozen=True)
class OriginalTensor:
    """One tensor of the original layout, and what it is made of.

    Attributes:
        name: in the original layout.
        sources: diffusers' tensors, joined along their first axis.
        layout: what is done to them then: a matrix as a 1 x 1 convolution, or transposed.
    """

    name: str
    sources: tuple[str, ...]
    layout: Layout = "same"

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Its shape, for the shapes of the sources."""
        first, *rest = (shapes[source][0] for source in self.sources)
        joined = (first + sum(rest), *shapes[self.sources[0]][1:])
        if self.layout == "transposed":
            return joined[::-1]
        return (*joined, 1, 1) if self.layout == "convolution" else joined


def unet_tensors(names: Iterable[str], layers_per_block: int) -> list[OriginalTensor]:
    """The UNet: the same tensors under other names."""
    known = tuple(names)
    return [
        OriginalTensor(original_unet_name(name, known, layers_per_block), (name,)) for name in known
    ]


def original_unet_name(name: str, names: Iterable[str], layers_per_block: int) -> str:
    """The original name of one of the UNet's tensors; `names` has all of them."""
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    stride = layers_per_block + 1
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        where, block, kind, layer, rest = match.groups()
        index = int(block) * stride + int(layer) + (where == "down")
        side = "input" if where == "down" else "output"
        inner = _resnet_original(rest) if kind == "resnets" else rest
        return f"{side}_blocks.{index}.{int(kind == 'attentions')}.{inner}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, layer, rest = match.groups()
        index = 2 * int(layer) if kind == "resnets" else 1
        return f"middle_block.{index}.{_resnet_original(rest) if kind == 'resnets' else rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * stride}.0.op.{match[2]}"
    match = re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name)
    if match is None:
        raise ValueError(f"not a name of a Stable Diffusion UNet: {name}")
    block = int(match[1])
    attends = any(other.startswith(f"up_blocks.{block}.attentions") for other in names)
    return f"output_blocks.{block * stride + layers_per_block}.{1 + attends}.conv.{match[2]}"


def _resnet_original(rest: str) -> str:
    """A name inside a residual block."""
    layer, ending = rest.rsplit(".", 1)
    return f"{RESNET[layer]}.{ending}"


def vae_tensors(shapes: Shapes) -> list[OriginalTensor]:
    """The VAE: other names, decoder blocks counted backwards, attention as 1 x 1 convolutions."""
    last = max(int(found[1]) for name in shapes if (found := re.search(r"up_blocks\.(\d+)", name)))
    return [_vae_tensor(name, len(shape), last) for name, shape in shapes.items()]


def _vae_tensor(source: str, rank: int, last: int) -> OriginalTensor:
    name = source.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    if match := re.fullmatch(r"(.*)up_blocks\.(\d+)\.(resnets|upsamplers\.0)(.*)", name):
        kind = "block" if match[3] == "resnets" else "upsample"
        return OriginalTensor(f"{match[1]}up.{last - int(match[2])}.{kind}{match[4]}", (source,))
    if match := re.fullmatch(r"(.*)mid_block\.resnets\.(\d)(.*)", name):
        return OriginalTensor(f"{match[1]}mid.block_{int(match[2]) + 1}{match[3]}", (source,))
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        name = f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
        return OriginalTensor(name, (source,), "convolution" if rank == 2 else "same")
    return OriginalTensor(name, (source,))


def clip_tensors(names: Iterable[str]) -> list[OriginalTensor]:
    """A text encoder as OpenAI's CLIP in transformers has had it: with a prefix."""
    return [OriginalTensor(f"text_model.{n.removeprefix('text_model.')}", (n,)) for n in names]


def open_clip_tensors(names: Iterable[str]) -> list[OriginalTensor]:
    """A text encoder under OpenCLIP's names: projections in one, the last one transposed."""
    result = []
    for source in names:
        name = source
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if match := re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            sources = tuple(source.replace("q_proj", f"{part}_proj") for part in "qkv")
            result.append(OriginalTensor(f"{match[1]}.attn.in_proj_{match[2]}", sources))
        elif name == "text_projection.weight":
            result.append(OriginalTensor("text_projection", (source,), "transposed"))
        elif not re.search(r"self_attn\.[kv]_proj", name):
            result.append(OriginalTensor(name, (source,)))
    return result


def single_file_tensors(
    shapes: Mapping[str, Shapes], unet_config: Mapping[str, Any]
) -> dict[str, list[OriginalTensor]]:
    """All tensors of a single file by the part they are from, under their full names.

    Args:
        shapes: of the tensors of each part, under diffusers' names.
        unet_config: the configuration of the UNet.
    """
    unet = unet_tensors(shapes["unet"], int(unet_config["layers_per_block"]))
    sections = {
        "unet": _prefixed(UNET_PREFIX, unet),
        "vae": _prefixed(VAE_PREFIX, vae_tensors(shapes["vae"])),
    }
    first = shapes["text_encoder"]
    if "text_encoder_2" in shapes:
        sections["text_encoder"] = _prefixed(CLIP_PREFIX_XL, clip_tensors(first))
        second = open_clip_tensors(shapes["text_encoder_2"])
        sections["text_encoder_2"] = _prefixed(OPEN_CLIP_PREFIX_XL, second)
    elif unet_config.get("use_linear_projection"):  # SD 2.x, which came with OpenCLIP
        sections["text_encoder"] = _prefixed(OPEN_CLIP_PREFIX, open_clip_tensors(first))
    else:
        sections["text_encoder"] = _prefixed(CLIP_PREFIX, clip_tensors(first))
    return sections


def _prefixed(prefix: str, tensors: Iterable[OriginalTensor]) -> list[OriginalTensor]:
    return [replace(tensor, name=prefix + tensor.name) for tensor in tensors]
