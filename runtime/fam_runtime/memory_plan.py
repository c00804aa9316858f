"""How a call keeps within a memory budget: the fastest way that fits.

The plans, in the order in which they are tried:

1. **packed**: every graph stays loaded, its weights copied into a faster layout (the default);
2. **packed by phase**: the same, but each graph is freed when its phase ends, and loaded again;
3. **mapped**: weights stay in memory-mapped files, one UNet graph at a time (`low_memory`);

each with the native attention stored, then replayed, which needs both UNet graphs at once (mapped,
they share their weights). Smaller VAE tiles come last: they alone change a picture by more than
its last bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.errors import InvalidRequest
from fam_runtime.memory_phases import Call, PhaseMemory, WeightsMode
from fam_runtime.native_attention import NativeAttentionChoice

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest
    from fam_runtime.request import Request
    from fam_runtime.tiling import Tiling

WEIGHTS_MODES: tuple[WeightsMode, ...] = ("packed", "packed by phase", "mapped")

BASE_BYTES = 96 << 20
"""Python, NumPy and ONNX Runtime, where the system does not say (measured: 50 MB on Linux)."""

_MEBIBYTE = 1 << 20
_JITTER_BYTES = 4 * _MEBIBYTE
"""The bare process differs by as much from run to run: a budget that a message names must do."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a call is to be made.

    Attributes:
        weights: see the module's text.
        native_attention: *none*, *store* or *replay*.
        tiling: of the VAE decode; None is one piece.
        phases: bytes of the process in each phase.
        budget_bytes: what they keep within.
    """

    weights: WeightsMode
    native_attention: NativeAttentionChoice
    tiling: Tiling | None
    phases: Mapping[str, int]
    budget_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Bytes of the largest phase."""
        return max(self.phases.values())

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        tiling = self.tiling
        return {
            "weights": self.weights,
            "native_attention": self.native_attention,
            "vae_tile": None if tiling is None else [tiling.tile, tiling.overlap],
            "phases": dict(self.phases),
            "peak_bytes": self.peak_bytes,
            "budget_bytes": self.budget_bytes,
        }


def plan_memory(call: Call, budget_bytes: int, *, low_memory: bool = False) -> MemoryPlan:
    """The first plan that keeps the process within `budget_bytes`.

    Args:
        call: what its request fixes stays fixed.
        budget_bytes: for the whole process.
        low_memory: mapped weights in any case.

    Raises:
        InvalidRequest: no plan does; the message names the smallest budget that would do.
    """
    modes: Sequence[WeightsMode] = ("mapped",) if low_memory else WEIGHTS_MODES
    memory = {
        mapped: PhaseMemory(call, mapped=mapped) for mapped in {mode == "mapped" for mode in modes}
    }
    plans = []
    choices = product(_tilings(call.request), modes, _attentions(call.request))
    for tiling, weights, attention in choices:
        phases = memory[weights == "mapped"].bytes_by_phase(weights, attention, tiling)
        plans.append(MemoryPlan(weights, attention, tiling, phases, budget_bytes))
        if plans[-1].peak_bytes <= budget_bytes:
            return plans[-1]
    raise _too_small(min(plans, key=lambda plan: plan.peak_bytes))


def within_memory_plan(request: Request, plan: MemoryPlan) -> Request:
    """`request` with what `plan` decides; what it leaves free no longer is."""
    attention = request.native_attention
    if plan.native_attention != "none":
        attention = plan.native_attention
    return replace(request, tiling=plan.tiling, native_attention=attention)


def graphs_of_request(manifest: Manifest, request: Request) -> frozenset[str]:
    """Every graph that a call may load."""
    target = request.target
    texts = (encoder.graph for encoder in manifest.text_encoders)
    return frozenset({*texts, NATIVE_GRAPH, target.upsample, target.step, manifest.vae.decoder})


def _tilings(request: Request) -> tuple[Tiling | None, ...]:
    """The call's own tiling, then the smaller ones that may take its place."""
    own = request.tiling
    smaller = [t for t in request.smaller_tilings if own is None or t.tile < own.tile]
    return (own, *smaller)


def _attentions(request: Request) -> tuple[NativeAttentionChoice, ...]:
    if request.am_strength == 0:
        return ("none",)
    if request.native_attention == "auto":
        return ("store", "replay")
    return (request.native_attention,)


def _too_small(smallest: MemoryPlan) -> InvalidRequest:
    needed = -(-(smallest.peak_bytes + _JITTER_BYTES) // _MEBIBYTE)
    phases = ", ".join(f"{name} {mebibytes(size)}" for name, size in smallest.phases.items())
    return InvalidRequest(
        "the memory budget is too small for this picture",
        got=mebibytes(smallest.budget_bytes),
        expected=f"at least {needed}M ({phases})",
        fix=f"--memory-budget {needed}M, a smaller size, or fewer pictures in a batch",
    )


def mebibytes(size: int) -> str:
    """``800M``, rounded up, in the units that `--memory-budget` takes."""
    return f"{-(-size // _MEBIBYTE)}M"
