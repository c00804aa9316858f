"""Where the target stage gets the native attention of each step: *store*, *replay*, or nowhere.

- *store*: the native stage keeps the taps of every step.
- *replay*: it keeps the latents ``z_t^n`` only, and the native graph runs again at each target
  step. Taps depend on the latent, the timestep and the conditions alone, so the bits are the same.
- *none*: λ = 0 multiplies them by zero; the target graph is fed zeros.

The choices as data are in :mod:`fam_runtime.stage_program`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_BYTES
from fam_runtime.contract import tap_names
from fam_runtime.free_memory import free_memory_bytes
from fam_runtime.stage_program import NoNativeAttention

if TYPE_CHECKING:
    from fam_runtime.backends.place import Place
    from fam_runtime.bundle import Manifest, TensorSpec

NativeAttentionMode = Literal["auto", "store", "replay"]
NativeAttentionChoice = Literal["none", "store", "replay"]

NATIVE_ATTENTION_MODES: tuple[NativeAttentionMode, ...] = ("auto", "store", "replay")

_BUDGET_SHARE_OF_FREE_MEMORY = 4
_FALLBACK_BUDGET_BYTES = 1 << 30


def no_native_attention(specs: Sequence[TensorSpec], sizes: dict[str, int]) -> NoNativeAttention:
    """Zeros for the tap inputs `specs` of a target graph; `sizes` of symbols as in ``{"B": 1}``."""
    return NoNativeAttention(
        {spec.name: (shape_from_symbols(spec.shape, sizes), spec.dtype) for spec in specs}
    )


def all_tap_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of every tap tensor of the bundle, in graph order."""
    return tuple(
        name for layer in manifest.taps.layers for name in tap_names(layer.name, manifest.taps.form)
    )


def tap_specs(manifest: Manifest, graph: str) -> tuple[TensorSpec, ...]:
    """Tap inputs of the target graph `graph`."""
    names = set(all_tap_names(manifest))
    return tuple(spec for spec in manifest.graphs[graph].inputs if spec.name in names)


def stored_bytes(specs: Sequence[TensorSpec], sizes: dict[str, int], steps: int) -> int:
    """Bytes that *store* keeps for a batch; `sizes` as in :func:`no_native_attention`."""
    return steps * sum(
        TENSOR_DTYPE_BYTES[spec.dtype]
        * int(np.prod(shape_from_symbols(spec.shape, sizes), dtype=np.int64))
        for spec in specs
    )


def default_memory_budget_bytes(place: Place | None = None) -> int:
    """A quarter of the memory that is free now, where the system says how much that is.

    Args:
        place: whose memory; None: the host's.
    """
    free = free_memory_bytes() if place is None else place.free_memory_bytes()
    return _FALLBACK_BUDGET_BYTES if free is None else free // _BUDGET_SHARE_OF_FREE_MEMORY


def choose_native_attention(
    mode: NativeAttentionMode, am_strength: float, needed_bytes: int, budget_bytes: int
) -> NativeAttentionChoice:
    """*none* for λ = 0; else `mode`, where *auto* stores what fits into the budget."""
    if am_strength == 0:
        return "none"
    if mode != "auto":
        return mode
    return "store" if needed_bytes <= budget_bytes else "replay"
