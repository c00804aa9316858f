"""Inputs and outputs of the served models: one table for configuration, models, probe and clients.

A request holds `B` pictures; every tensor has `B` as its first dimension. A missing optional input
means the default of :class:`fam_runtime.FamPipeline`, for all pictures of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

TensorType = Literal["STRING", "UINT64", "INT32", "FP32", "UINT8"]

DEFAULT_MODEL_NAME = "fam_diffusion"

STREAM_SUFFIX = "_stream"
"""Ends the name of the decoupled model, which sends its progress."""


@dataclass(frozen=True)
class ServedTensor:
    """An input or output, as the configuration declares it.

    Attributes:
        name: what clients call it.
        type: Triton's type; the protocols say ``BYTES`` for ``STRING``.
        shape: of one picture, behind the batch dimension; -1 is any size.
        meaning: for people; the table of docs/triton.md says the same.
        argument: of :meth:`FamPipeline.__call__` that an input is given to.
        optional: an input that may be left out.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    meaning: str
    argument: str = ""
    optional: bool = True


PROMPT, NEGATIVE_PROMPT, SEED, STEPS = "prompt", "negative_prompt", "seed", "steps"
IMAGE, PNG, SETTINGS, PROGRESS = "image", "png", "settings", "progress"

INPUTS: tuple[ServedTensor, ...] = (
    ServedTensor(PROMPT, "STRING", (1,), "what to draw, UTF-8", "prompt", optional=False),
    ServedTensor(NEGATIVE_PROMPT, "STRING", (1,), "what to keep away from", "negative_prompt"),
    ServedTensor(SEED, "UINT64", (1,), "of the noise; default: its place in the request", "seed"),
    ServedTensor(STEPS, "INT32", (1,), "denoising steps of each stage", "num_inference_steps"),
    ServedTensor(
        "guidance_scale", "FP32", (1,), "how strictly to follow the prompt", "guidance_scale"
    ),
    ServedTensor(
        "scale", "FP32", (-1,), "times the trained size; or height's and width's factor", "scale"
    ),
    ServedTensor("height", "INT32", (1,), "in pixels, instead of a scale", "height"),
    ServedTensor("width", "INT32", (1,), "in pixels, instead of a scale", "width"),
    ServedTensor("method", "STRING", (1,), "fam, fm, am, direct and the other ablations", "method"),
    ServedTensor("scheduler", "STRING", (1,), "ddim, euler, euler-a, dpm++2m …", "scheduler"),
    ServedTensor("am_strength", "FP32", (1,), "λ of Eq. 7, 0 to 1", "am_strength"),
)

OUTPUTS: tuple[ServedTensor, ...] = (
    ServedTensor(IMAGE, "UINT8", (-1, -1, 3), "RGB"),
    ServedTensor(
        PNG,
        "STRING",
        (1,),
        "the same as PNG files that carry their settings; made only when it is asked for",
    ),
    ServedTensor(
        SETTINGS,
        "STRING",
        (1,),
        "JSON: everything that makes the picture again (fam-generate --from-png reads the same), "
        "and the warnings",
    ),
)

STREAMED: tuple[ServedTensor, ...] = (
    ServedTensor(PROGRESS, "STRING", (1,), "JSON: picture, stage, step (from 1) and steps"),
)
"""Outputs of the decoupled model besides :data:`OUTPUTS`, which its last response holds."""

STEPS_METRIC, PICTURES_METRIC = "fam_steps_total", "fam_pictures_total"
CANCELLED_METRIC, REFUSED_METRIC = "fam_cancelled_total", "fam_refused_total"

METRICS: Mapping[str, str] = MappingProxyType(
    {
        STEPS_METRIC: "Denoising steps and decoded tiles since the server started",
        PICTURES_METRIC: "Pictures since the server started",
        CANCELLED_METRIC: "Requests that their client cancelled",
        REFUSED_METRIC: "Requests that were refused, because an input cannot be used",
    }
)
"""Counters on the server's metrics port, with the labels `model` and `version`."""
