"""From the key layout of the original implementations to diffusers', without reading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_export.checkpoint.file_kind import SUPPORTED, UNET_PREFIX
from fam_export.checkpoint.stored_tensor import StoredTensor
from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

VAE_PREFIXES = ("first_stage_model.", "vae.")
CLIP_PREFIXES = {
    "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
}
OPEN_CLIP_PREFIXES = {
    "text_encoder": ("cond_stage_model.model.",),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}


def converted(
    tensors: Mapping[str, StoredTensor], part: str, module: nn.Module, path: Path
) -> Mapping[str, StoredTensor]:
    """The tensors of `part` under diffusers' names.

    The renaming is that of diffusers' ``from_single_file``: its converters run over tensors that
    remember what is done to them.

    Raises:
        CheckpointError: the file does not hold this part.
    """
    prefixes = {"unet": (UNET_PREFIX,), "vae": VAE_PREFIXES}.get(part)
    if prefixes is None:
        prefixes = (*CLIP_PREFIXES.get(part, ()), *OPEN_CLIP_PREFIXES[part])
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)}
    if not own:
        raise CheckpointError(
            f"{path} holds no {part.replace('_', ' ')}",
            expected=SUPPORTED,
            fix="give the whole checkpoint, not a pruned one",
        )
    return _convert(own, part, module)


def _convert(own: Mapping[str, StoredTensor], part: str, module: Any) -> Mapping[str, StoredTensor]:
    from diffusers.loaders import single_file_utils as original

    result: Mapping[str, StoredTensor]
    if part == "unet":
        result = original.convert_ldm_unet_checkpoint(own, module.config)
        return result
    if part == "vae":
        result = original.convert_ldm_vae_checkpoint(own, module.config)
        return result
    for prefix in OPEN_CLIP_PREFIXES[part]:
        if any(key.startswith(prefix) for key in own):
            result = original.convert_open_clip_checkpoint(module, own, prefix=prefix)
            return result
    result = original.convert_ldm_clip_checkpoint(own)
    return result
