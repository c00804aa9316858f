"""Random LoRAs for tiny checkpoints, written the ways that trainers write them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from fam_bench.original_layout import original_unet_name
from tests.checkpoint_formats import parts, read_part

Format = Literal["kohya", "peft", "peft-metadata", "diffusers", "diffusers-old"]

ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj"
LAYERS: dict[Format, str] = {
    # Trainers for kohya's format reach convolutions of every size and the embeddings.
    "kohya": rf"{ATTENTION}|proj_(in|out)|ff\.net\.(0\.proj|2)|conv[12]|conv_shortcut|samplers\.0"
    r"\.conv|time_emb_proj|conv_in|linear_1|mlp\.fc[12]",
    "peft": rf"{ATTENTION}|proj_(in|out)|ff\.net\.(0\.proj|2)|conv1|mlp\.fc[12]",
    "peft-metadata": ATTENTION,
    "diffusers": rf"{ATTENTION}|proj_in|mlp\.fc[12]",
    "diffusers-old": ATTENTION,
}
OLD_NAMES = {
    "to_q": "to_q_lora",
    "to_k": "to_k_lora",
    "to_v": "to_v_lora",
    "to_out.0": "to_out_lora",
    "q_proj": "to_q_lora",
    "k_proj": "to_k_lora",
    "v_proj": "to_v_lora",
    "out_proj": "to_out_lora",
}


@dataclass(frozen=True)
class Factors:
    """``A`` and ``B`` of one layer."""

    down: torch.Tensor
    up: torch.Tensor


def write_lora(
    checkpoint: Path, path: Path, form: Format, *, rank: int = 4, alpha: float = 2.0, seed: int = 0
) -> Path:
    """A LoRA for every layer that trainers of this format reach."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for part in parts(checkpoint):
        if part == "vae":
            continue
        state = read_part(checkpoint, part)
        for name, weight in sorted(state.items()):
            layer = name.removesuffix(".weight")
            if layer == name or not re.search(rf"(^|\.)({LAYERS[form]})$", layer):
                continue
            factors = _factors(weight, rank, generator)
            tensors |= _named(form, part, layer, factors, alpha, state, len(parts(checkpoint)) == 4)
        settings |= {f"{part}.r": rank, f"{part}.lora_alpha": alpha}
    if form == "peft-metadata":
        for part in ("unet", "text_encoder", "text_encoder_2"):
            targets = {k.split(".lora_")[0] for k in tensors if k.startswith(f"{part}.")}
            names = sorted(target.removeprefix(f"{part}.") for target in targets)
            if names:
                settings[f"{part}.target_modules"] = names
                settings[f"{part}.alpha_pattern"] = {names[0]: 3 * alpha}
        settings["unet.use_rslora"] = True
        metadata["lora_adapter_metadata"] = json.dumps(settings)
    save_file(tensors, path, metadata)
    return path


def _factors(weight: torch.Tensor, rank: int, generator: torch.Generator) -> Factors:
    out, *inner = weight.shape
    down = torch.randn((rank, *inner), generator=generator)
    up = torch.randn((out, rank, *(1 for _ in inner[1:])), generator=generator)
    return Factors(down * 0.3, up * 0.3)


def _named(
    form: Format,
    part: str,
    layer: str,
    factors: Factors,
    alpha: float,
    names: dict[str, torch.Tensor],
    xl: bool,
) -> dict[str, torch.Tensor]:
    text_layer = f"text_model.{layer.removeprefix('text_model.')}"
    full = layer if part == "unet" or form == "peft-metadata" else text_layer
    if form == "kohya":
        prefix = {"unet": "unet", "text_encoder": "te1" if xl else "te", "text_encoder_2": "te2"}
        if part == "unet" and xl:
            full = original_unet_name(f"{layer}.weight", names, 1).removesuffix(".weight")
        stem = f"lora_{prefix[part]}_{full.replace('.', '_')}"
        return {
            f"{stem}.lora_down.weight": factors.down,
            f"{stem}.lora_up.weight": factors.up,
            f"{stem}.alpha": torch.tensor(alpha),
        }
    if form.startswith("peft"):
        down, up = f"{part}.{full}.lora_A.weight", f"{part}.{full}.lora_B.weight"
    elif form == "diffusers":
        infix = "lora" if part == "unet" else "lora_linear_layer"
        down, up = f"{part}.{full}.{infix}.down.weight", f"{part}.{full}.{infix}.up.weight"
    else:
        ending = next(ending for ending in OLD_NAMES if full.endswith(f".{ending}"))
        stem = full.removesuffix(ending)
        stem = f"{stem}processor." if part == "unet" else stem
        down = f"{part}.{stem}{OLD_NAMES[ending]}.down.weight"
        up = f"{part}.{stem}{OLD_NAMES[ending]}.up.weight"
    return {down: factors.down, up: factors.up}
