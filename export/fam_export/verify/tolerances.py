"""How far a contestant may be from PyTorch in fp32, by what it computes in.

Set from measurements with the demo checkpoint and with random ones shaped like SD 1.5, SD 2.1-v and
SDXL, 4 to 25 steps, rounded up to leave room for other checkpoints and libraries. Who computed:

- fp32: ONNX Runtime on a CPU, which differs from PyTorch by the order of summation.
- fp16: ONNX Runtime on a CPU, which rounds between operators, and PyTorch on a CPU computing in
  fp16, which was up to four times further off; the worse of the two is quoted.
- bf16: PyTorch on a CPU computing in bf16.
- tf32: PyTorch on a CPU with what linear layers and convolutions multiply rounded to the 10 bits of
  mantissa that TF32 keeps.

A step is the strict comparison: it begins where PyTorch's began, so its error is its own. The end
of a run is not: steps amplify the errors of those before them (by up to 18 in the random
checkpoints), so a run in half precision ends in a slightly different picture. The end is compared
to find gross drift; whether a library computes the graphs, the steps say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fam_export.verify.figures import Figure
from fam_runtime.bundle import ModelDtype

Arithmetic = Literal["fp32", "tf32", "fp16", "bf16"]

Kind = Literal["graph", "step", "final", "picture"]
"""`graph`: a text encoder, the VAE's or an upsampler, on PyTorch's inputs; `step`: from PyTorch's
latent; `final`: a latent after a run of the contestant's own; `picture`: decoded from it."""

GRAPH_RELATIVE_RMS: Mapping[Arithmetic, float] = {
    "fp32": 1e-4,
    "tf32": 1e-2,
    "fp16": 1e-2,
    "bf16": 5e-2,
}
"""Measured 7e-6 (the demo's VAE), 1.3e-3, 1.0e-3 and 7e-3."""

GRAPH_RELATIVE_MAX: Mapping[Arithmetic, float] = {
    "fp32": 2e-4,
    "tf32": 2e-2,
    "fp16": 2e-2,
    "bf16": 1e-1,
}
"""Measured 1.4e-5, 2.0e-3, 1.2e-3 and 1.2e-2."""

STEP_RELATIVE_RMS: Mapping[Arithmetic, float] = {
    "fp32": 1e-4,
    "tf32": 5e-2,
    "fp16": 5e-2,
    "bf16": 3e-1,
}
"""Relative to what UNet and sampler change in the latent (after FM): relative to the latent, errors
of a UNet vanish beside what is passed through, the more so the more steps there are (measured: a
hundred times less at the first step than at the last). Measured 1.6e-5, 1.8e-2, 2.6e-2 and 1.5e-1,
all but the first with the random v-prediction UNet; with the demo 6e-6, 4e-3 and 8e-3, in fp16 with
ONNX Runtime 1.9e-3."""

STEP_RELATIVE_MAX: Mapping[Arithmetic, float] = {
    "fp32": 5e-4,
    "tf32": 1e-1,
    "fp16": 1e-1,
    "bf16": 5e-1,
}
"""Relative to the largest change. Measured 1.1e-4, 3.5e-2, 5.6e-2 and 2.5e-1."""

FINAL_RELATIVE_RMS: Mapping[Arithmetic, float] = {
    "fp32": 2e-3,
    "tf32": 5e-1,
    "fp16": 5e-1,
    "bf16": 7e-1,
}
"""Measured 2.4e-4, 2.0e-1, 2.9e-1 and 4.5e-1 with the random v-prediction UNet, which amplifies
most; with the demo 2e-6, 1.4e-3 and 1.2e-3."""

PICTURE_PSNR_DB: Mapping[Arithmetic, float] = {
    "fp32": 70.0,
    "tf32": 18.0,
    "fp16": 18.0,
    "bf16": 15.0,
}
"""At least. Measured 83.8, 25.4, 22.1 and 18.6 dB with the random v-prediction UNet; with the demo
116, 72 and 68 dB."""

PICTURE_MAX_LEVELS: Mapping[Arithmetic, float] = {"fp32": 3.0}
"""Measured 1: a colour that lies between two levels goes either way. In other arithmetic a single
pixel at an edge may change altogether (127 of 255), and says nothing."""

AT_LEAST: frozenset[Figure] = frozenset({"psnr_db"})
"""Figures that are better when they are larger; all others are worse."""

_BOUNDS: Mapping[Kind, Mapping[Figure, Mapping[Arithmetic, float]]] = {
    "graph": {"relative_rms": GRAPH_RELATIVE_RMS, "relative_max": GRAPH_RELATIVE_MAX},
    "step": {"relative_rms": STEP_RELATIVE_RMS, "relative_max": STEP_RELATIVE_MAX},
    "final": {"relative_rms": FINAL_RELATIVE_RMS},
    "picture": {"psnr_db": PICTURE_PSNR_DB, "max_levels": PICTURE_MAX_LEVELS},
}


def bounds_of(kind: Kind, arithmetic: Arithmetic) -> dict[Figure, float]:
    """The bounds of a comparison; figures without one are only reported."""
    return {
        figure: by_arithmetic[arithmetic]
        for figure, by_arithmetic in _BOUNDS[kind].items()
        if arithmetic in by_arithmetic
    }


def arithmetic_of(
    dtype: ModelDtype, bundle_dtype: ModelDtype, described: Mapping[str, str]
) -> Arithmetic:
    """What a contestant computes a graph in.

    TF32 rounds what is multiplied to 10 bits of mantissa, in graphs that are fp32 otherwise. By
    default backends on a GPU run the graphs of fp32 bundles without it, and what is fp32 in other
    bundles (the VAE) with it.

    Args:
        dtype: of the graph.
        bundle_dtype: of the bundle.
        described: what the backend says about itself.
    """
    if dtype != "fp32":
        return dtype
    tf32 = described.get("tf32")
    if tf32 == "by dtype":
        return "fp32" if bundle_dtype == "fp32" else "tf32"
    return "tf32" if tf32 == "on" else "fp32"
