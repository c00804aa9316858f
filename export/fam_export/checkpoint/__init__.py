"""Checkpoints as people have them: diffusers folders, single files, hub ids, with LoRAs.

Only safetensors weights are read: a pickle runs code of whoever made it.
"""

from fam_export.checkpoint.checkpoint import Checkpoint
from fam_export.checkpoint.checks import PROMPT_TOKENS
from fam_export.checkpoint.configuration import Family
from fam_export.checkpoint.distilled import Distilled
from fam_export.checkpoint.lora import Lora, lora_from_text
from fam_export.checkpoint.opening import DEMO, open_checkpoint
from fam_export.checkpoint.weights import WeightSource

__all__ = [
    "DEMO",
    "PROMPT_TOKENS",
    "Checkpoint",
    "Distilled",
    "Family",
    "Lora",
    "WeightSource",
    "lora_from_text",
    "open_checkpoint",
]
