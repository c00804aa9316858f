"""Where the target stage gets the native attention of each step: *store*, *replay*, or nowhere.

- *store*: the native stage keeps the taps of every step.
- *replay*: it keeps the latents ``z_t^n`` only, and the native graph runs again at each target
  step. Taps depend on the latent, the timestep and the conditions alone, so the bits are the same.
- *none*: λ = 0 multiplies them by zero; the target graph is fed zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fam_runtime.backends.base import Backend, Runner, Value, Values
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_BYTES
from fam_runtime.contract import tap_names
from fam_runtime.free_memory import free_memory_bytes
from fam_runtime.sampler import step_feeds

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest, TensorSpec
    from fam_runtime.schedulers import StepPlan

NativeAttentionMode = Literal["auto", "store", "replay"]
NativeAttentionChoice = Literal["none", "store", "replay"]

NATIVE_ATTENTION_MODES: tuple[NativeAttentionMode, ...] = ("auto", "store", "replay")

_BUDGET_SHARE_OF_FREE_MEMORY = 4
_FALLBACK_BUDGET_BYTES = 1 << 30


class NativeAttentionSource(ABC):
    """Gives the taps of a step to the target graph."""

    @abstractmethod
    def taps(self, index: int) -> Values:
        """Taps of step `index` (0 is the noisiest), keyed by the target graph's input names."""


class NoNativeAttention(NativeAttentionSource):
    """Zeros, for λ = 0.

    Args:
        backend: where the zeros live.
        specs: tap inputs of the target graph.
        sizes: values of their symbols, such as ``{"B": 1}``.
    """

    def __init__(
        self, backend: Backend, specs: Sequence[TensorSpec], sizes: dict[str, int]
    ) -> None:
        self._zeros = {
            spec.name: backend.zeros(shape_from_symbols(spec.shape, sizes), spec.dtype)
            for spec in specs
        }

    def taps(self, index: int) -> Values:
        """The same zeros at every step."""
        return self._zeros


class StoredAttention(NativeAttentionSource):
    """Taps kept by the native stage; each step's are dropped once they are handed out.

    Args:
        steps: taps of every step; they are taken out of this very list, so that nothing keeps them.
    """

    def __init__(self, steps: list[Values | None]) -> None:
        self._steps = steps

    def taps(self, index: int) -> Values:
        """Taps of step `index`, once."""
        taps, self._steps[index] = self._steps[index], None
        if taps is None:
            raise RuntimeError(f"stored taps of step {index} were already handed out")
        return taps


class ReplayedAttention(NativeAttentionSource):
    """Taps computed again from the native latents.

    Args:
        runner: the native step graph.
        names: its tap outputs.
        steps: the plan that the native stage followed.
        latents: ``z_t^n`` at the beginning of every step.
        conditions: what the native stage fed at every step.
    """

    def __init__(
        self,
        runner: Runner,
        names: Sequence[str],
        steps: Sequence[StepPlan],
        latents: Sequence[Value],
        conditions: Values,
    ) -> None:
        self._runner, self._names = runner, tuple(names)
        self._steps, self._latents, self._conditions = steps, latents, conditions

    def taps(self, index: int) -> Values:
        """Run the native graph at ``z_t^n`` for its taps."""
        step, latent = self._steps[index], self._latents[index]
        unused = np.zeros(latent.shape, np.float32)
        feeds = step_feeds(step, latent, prediction=unused, noise=unused)
        return self._runner.run({**feeds, **self._conditions}, self._names)


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
    """Bytes that *store* keeps for a batch; `sizes` as in :class:`NoNativeAttention`."""
    return steps * sum(
        TENSOR_DTYPE_BYTES[spec.dtype]
        * int(np.prod(shape_from_symbols(spec.shape, sizes), dtype=np.int64))
        for spec in specs
    )


def default_memory_budget_bytes() -> int:
    """A quarter of the memory that is free now, where the system says how much that is."""
    free = free_memory_bytes()
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
