"""The names a bundle's graphs are called by: inputs, outputs, tap tensors and step coefficients.

Every package takes these names from here; docs/bundle_format.md is their normative description.
This file imports the standard library only.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

FORMAT_VERSION = 1
"""Version of the bundle format that this package writes and reads."""

# Inputs of both step graphs, in graph order.
LATENT = "latent"
TIMESTEP = "timestep"
STEP_COEFFICIENTS = "step_coefficients"
PREVIOUS_PREDICTION = "previous_prediction"
STEP_NOISE = "step_noise"
GUIDANCE_SCALE = "guidance_scale"
PROMPT_EMBEDS = "prompt_embeds"
POOLED_PROMPT_EMBEDS = "pooled_prompt_embeds"
TIME_IDS = "time_ids"

# Further inputs of a target step graph.
REFERENCE_LATENT = "reference_latent"
REFERENCE_NOISE = "reference_noise"
FM_KERNEL_ROWS = "fm_kernel_rows"
FM_KERNEL_COLUMNS = "fm_kernel_columns"
FM_WEIGHT = "fm_weight"
AM_STRENGTH = "am_strength"

# Outputs of both step graphs.
NEXT_LATENT = "next_latent"
PREDICTION = "prediction"

# The other graphs.
INPUT_IDS = "input_ids"
IMAGE = "image"

# Members of fm/kernels-*.safetensors.
FM_TABLE_ROWS = "rows"
FM_TABLE_COLUMNS = "columns"
FM_TABLE_WEIGHT = "weight"

TapForm = Literal["qk", "maps"]


def tap_names(layer: str, form: TapForm) -> tuple[str, ...]:
    """Names of the tensors that carry the native attention of `layer`, in graph order."""
    if form == "qk":
        return (f"attention_query.{layer}", f"attention_key.{layer}")
    return (f"attention_map.{layer}",)


class StepCoefficient(IntEnum):
    """Positions in `step_coefficients`; docs/equations.md derives them for every sampler.

    ``reference_t = REFERENCE_SIGNAL · reference_latent + REFERENCE_NOISE · reference_noise``,
    ``model_input = MODEL_INPUT_SCALE · z``,
    ``prediction  = PREDICTION_FROM_LATENT · z + PREDICTION_FROM_OUTPUT · m``,
    ``next_latent = NEXT_FROM_LATENT · z + NEXT_FROM_OUTPUT · m
    + NEXT_FROM_PREVIOUS · previous_prediction + NEXT_FROM_NOISE · step_noise``,
    with `z` the latent after FM and `m` the guided output of the UNet.
    """

    REFERENCE_SIGNAL = 0
    REFERENCE_NOISE = 1
    MODEL_INPUT_SCALE = 2
    PREDICTION_FROM_LATENT = 3
    PREDICTION_FROM_OUTPUT = 4
    NEXT_FROM_LATENT = 5
    NEXT_FROM_OUTPUT = 6
    NEXT_FROM_PREVIOUS = 7
    NEXT_FROM_NOISE = 8
