"""The paper's method and its ablations (Figs. 3, 7, 8) as choices of a target graph's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fam_runtime.arguments import real_number
from fam_runtime.errors import InvalidRequest

DEFAULT_METHOD = "fam"

Start = Literal["noise", "diffused"]
FmKernel = Literal["table", "delta", "off"]
FmWeight = Literal["table", "cosine"]
Reference = Literal["diffused", "constant"]


@dataclass(frozen=True)
class Method:
    """What a method feeds to the target graph.

    Attributes:
        summary: one line for `--help`.
        start: pure noise, or the diffused upsampled latent ``z̃_T``.
        fm_kernel: the bundle's Dirichlet kernels, a delta (every frequency), or no FM at all.
        fm_weight: ``1 - ρ(t)`` of Eq. 8, or DemoFusion's cosine (see :func:`skip_residual_weight`).
        am_strength: λ of Eq. 7 where the method fixes it; None leaves it to the request.
        reference: ``z̃_t``, or ``z̃_0`` at every step (Fig. 7).
    """

    summary: str
    start: Start = "diffused"
    fm_kernel: FmKernel = "table"
    fm_weight: FmWeight = "table"
    am_strength: float | None = None
    reference: Reference = "diffused"

    @property
    def needs_native_stage(self) -> bool:
        """Whether the target stage uses anything of the native one."""
        return self.start == "diffused" or self.fm_kernel != "off" or self.am_strength != 0


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "fam": Method("frequency and attention modulation, the paper's method"),
        "fm": Method("frequency modulation only", am_strength=0.0),
        "am": Method("attention modulation only, from the diffused latent", fm_kernel="off"),
        "skip-residual": Method(
            "DemoFusion's skip residual instead of FM",
            fm_kernel="delta",
            fm_weight="cosine",
            am_strength=0.0,
        ),
        "direct": Method(
            "the target size from pure noise", start="noise", fm_kernel="off", am_strength=0.0
        ),
        "direct-latent": Method(
            "the target size from the diffused latent", fm_kernel="off", am_strength=0.0
        ),
        "constant-lf": Method(
            "FM and AM with low frequencies of the clean latent at every step (Fig. 7)",
            reference="constant",
        ),
        "swapping": Method("FM and native attention alone, λ = 1 (Fig. 8)", am_strength=1.0),
    }
)


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise InvalidRequest(
            "unknown method",
            got=name,
            expected=" or ".join(METHODS),
            fix=f"use {DEFAULT_METHOD}, the default",
        ) from None


def resolve_am_strength(name: str, requested: float | None, default: float) -> float:
    """λ for the method called `name`.

    Raises:
        InvalidRequest: `requested` is outside of [0, 1], or the method fixes another value.
    """
    fixed = method_named(name).am_strength
    if requested is None:
        return default if fixed is None else fixed
    strength = real_number("am_strength", requested, 0, 1)
    if fixed is not None and strength != fixed:
        raise InvalidRequest(
            f"method {name} fixes am_strength",
            got=requested,
            expected=fixed.__repr__(),
            fix="leave am_strength out, or use method fam",
        )
    return strength


def skip_residual_weight(timestep: float, train_timesteps: int) -> float:
    """DemoFusion's ``c1 = ((1 + cos(π (T - t) / T)) / 2)³``: 1 at ``t = T``, 0 at ``t = 0``."""
    remaining = (train_timesteps - timestep) / train_timesteps
    return float(((1 + math.cos(math.pi * remaining)) / 2) ** 3)
