"""Which model a single safetensors file holds, told by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fam_export.checkpoint.stored_tensor import StoredTensor
from fam_runtime.errors import CheckpointError

UNET_PREFIX = "model.diffusion_model."
SDXL_KEY = "model.diffusion_model.label_emb.0.0.weight"
CONFIGURATION_OF_TYPE = {"v1": "sd15", "v2": "sd21", "xl_base": "sdxl"}
"""By the name that diffusers gives the model."""

OTHER_TYPES = {
    "inpainting": "an inpainting model",
    "inpainting_v2": "an inpainting model",
    "xl_inpaint": "an inpainting model",
    "instruct-pix2pix": "an InstructPix2Pix model",
    "xl_refiner": "the refiner of Stable Diffusion XL",
    "playground-v2-5": "Playground v2.5, which is sampled in another way (EDM)",
    "upscale": "an upscaler",
}
SUPPORTED = "a whole Stable Diffusion 1.x, 2.x or XL text-to-image checkpoint"


def shipped_configuration_name(tensors: Mapping[str, StoredTensor], path: Path) -> str:
    """Name of the shipped configuration that belongs to the file.

    Raises:
        CheckpointError: the file is no whole checkpoint of a supported kind; the text says what it
            is.
    """
    model_type = _model_type(tensors)
    if model_type == "unknown" or model_type not in CONFIGURATION_OF_TYPE:
        what = OTHER_TYPES.get(model_type, f"a {model_type} model")
        raise _refused(path, what, "use a text-to-image checkpoint of these families")
    if not any(key.startswith(UNET_PREFIX) for key in tensors):
        raise _refused(path, *_what_else(tensors))
    # Without its text encoders, diffusers takes any file for SD 1.x.
    return "sdxl" if SDXL_KEY in tensors else CONFIGURATION_OF_TYPE[model_type]


def _model_type(tensors: Mapping[str, StoredTensor]) -> str:
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        return str(infer_diffusers_model_type(tensors))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, UnboundLocalError):
        return "unknown"


def _what_else(tensors: Mapping[str, StoredTensor]) -> tuple[str, str]:
    """What a file without a UNet under its original name is, and what to do with it."""
    endings = ("lora_down.weight", "lora_A.weight", "lora.down.weight")
    if any(key.endswith(endings) for key in tensors):
        return "a LoRA", "give it as a LoRA beside the checkpoint it was made for"
    whole = "give the whole checkpoint, or a diffusers folder with this part in its place"
    if "conv_in.weight" in tensors or "input_blocks.0.0.weight" in tensors:
        return "a UNet without VAE and text encoders", whole
    if "decoder.conv_in.weight" in tensors:
        return "a VAE alone", whole
    return "no Stable Diffusion checkpoint", "check the file"


def _refused(path: Path, what: str, fix: str) -> CheckpointError:
    return CheckpointError(f"{path} is {what}", expected=SUPPORTED, fix=fix)
