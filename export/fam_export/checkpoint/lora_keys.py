"""The names in LoRA files: kohya's, peft's, and those that diffusers has had over the years."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fam_export.checkpoint.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import nn

PARTS = ("text_encoder_2", "text_encoder", "unet")
DOWN, UP = "down", "up"

_FACTOR = re.compile(
    r"(?P<layer>.+)\.(?:"
    r"lora_(?P<peft>[AB])(?:\.\w+)?"  # peft, with or without an adapter's name
    r"|(?:lora|lora_linear_layer)\.(?P<factor>down|up)"
    r"|to_(?P<projection>q|k|v|out)_lora\.(?P<old>down|up)"  # attention in diffusers < 0.21
    r")\.weight"
)
_PROJECTIONS = {
    "unet": {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    "text_encoder": {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"},
}

NOT_PLAIN_LORA = {
    r"\.(dora_scale|lora_magnitude_vector)": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.b?oft_": "OFT",
    r"\.lora_mid\.": "LoCon with a Tucker core",
    r"\.diff(_b)?$": "full differences",
}
"""Patterns in names of adapters that are no product of two factors, and what they are."""


@dataclass
class NamedLayer:
    """The factors of one layer; `alpha` None: it equals the rank."""

    factors: dict[str, StoredTensor] = field(default_factory=dict)
    alpha: float | None = None


def other_kind(tensors: Mapping[str, StoredTensor]) -> str | None:
    """What an adapter that is no plain LoRA is called; None: it may be one."""
    for pattern, kind in NOT_PLAIN_LORA.items():
        if any(re.search(pattern, key) for key in tensors):
            return kind
    return None


def named_layers(
    tensors: Mapping[str, StoredTensor], unet: nn.Module
) -> dict[tuple[str, str], NamedLayer]:
    """The layers of a LoRA by part and by the layer's name in diffusers' modules.

    A layer whose name is not understood comes under it as it is, for the caller to miss.

    Raises:
        ValueError: diffusers does not know the names.
    """
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    # Keeps peft's and diffusers' names and renames kohya's, whose SDXL blocks count otherwise. A
    # mixin of another family would do the same to the names of its family.
    renamed, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        dict(tensors), unet_config=unet.config
    )
    layers: dict[tuple[str, str], NamedLayer] = {}
    for key, tensor in renamed.items():
        if key.endswith(".alpha"):
            layer = _layer_and_factor(key.removesuffix(".alpha"))[0]
            layers.setdefault(layer, NamedLayer()).alpha = tensor.item()
        else:
            layer, factor = _layer_and_factor(key)
            layers.setdefault(layer, NamedLayer()).factors[factor] = tensor
    for key, alpha in (alphas or {}).items():
        layer = _layer_and_factor(key.removesuffix(".alpha"))[0]
        layers.setdefault(layer, NamedLayer()).alpha = float(alpha)
    return layers


def alpha_from_metadata(
    settings: Mapping[str, Any], part: str, layer: str, rank: int
) -> float | None:
    """The alpha that diffusers' metadata gives a layer, ready to be divided by the rank.

    `settings` is a peft configuration whose keys begin with the part: ``unet.lora_alpha``.
    """
    pattern = settings.get(f"{part}.alpha_pattern")
    alpha = settings.get(f"{part}.lora_alpha")
    for name, value in pattern.items() if isinstance(pattern, Mapping) else ():
        if f".{layer}".endswith(f".{str(name).removeprefix('^')}"):
            alpha = value
    if not isinstance(alpha, int | float):
        return None
    return alpha * rank**0.5 if settings.get(f"{part}.use_rslora") else float(alpha)


def _layer_and_factor(key: str) -> tuple[tuple[str, str], str]:
    """Part and layer, and which factor (empty: neither)."""
    part = next((part for part in PARTS if key.startswith(f"{part}.")), "")
    name = key.removeprefix(f"{part}.").replace(".processor.", ".")
    part = part or "unet"  # diffusers before 0.17 wrote UNets alone
    match = _FACTOR.fullmatch(name)
    if match is None:
        return (part, name), ""
    layer = match["layer"]
    if match["projection"]:
        table = _PROJECTIONS["unet" if part == "unet" else "text_encoder"]
        layer = f"{layer}.{table[match['projection']]}"
    factor = {"A": DOWN, "B": UP}.get(match["peft"]) or match["factor"] or match["old"]
    return (part, layer), factor
