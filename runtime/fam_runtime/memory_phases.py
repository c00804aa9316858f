"""What each phase of a call takes, estimated before anything is loaded.

A phase takes what the process had before it loaded a graph, the graphs that are loaded in it, the
tensors of the one that runs, and what waits for later phases (native attention, pictures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fam_runtime.backends.base import VAE_SAMPLES, Backend, GraphMemory
from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.native_attention import NativeAttentionChoice, stored_bytes, tap_specs

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle
    from fam_runtime.pipeline_output import OutputType
    from fam_runtime.request import Request
    from fam_runtime.tiling import Tiling

WeightsMode = Literal["packed", "packed by phase", "mapped"]

OVERHEAD_BYTES = 48 << 20
"""What comes on top of the bare process: tokenizers, Pillow, threads, the sessions' own structures,
freed memory that the allocator keeps (measured: 15 to 40 MB)."""

_FLOAT_BYTES = 4
_DECODED_BYTES_PER_PIXEL = 36
"""Three colours, each three times in float32: the picture, its rounding, a check for NaN."""
_FINISHED_BYTES_PER_PIXEL: Mapping[str, int] = {"pil": 3, "np": 24, "latent": 0}
"""Of a finished picture; arrays are joined at the end."""
_LATENT_COPIES = 16
"""Latents of the target size that are alive at once: references, noises, predictions, sums."""


@dataclass(frozen=True)
class Call:
    """What decides the memory of a call, besides the plan.

    Attributes:
        bundle, backend: whose graphs run, and who runs them.
        request: the checked call.
        output_type: decides what finished pictures take.
        native_wanted: native pictures are made, too.
        base_bytes: of the process before any graph is loaded.
    """

    bundle: Bundle
    backend: Backend
    request: Request
    output_type: OutputType
    native_wanted: bool
    base_bytes: int

    @property
    def batch(self) -> int:
        """Pictures that go through a graph together."""
        return min(self.request.pictures_per_batch, len(self.request.pictures))


class PhaseMemory:
    """The phases of a call, with packed or with mapped weights.

    Args:
        call: the call.
        mapped: graphs are loaded in low-memory mode.
    """

    def __init__(self, call: Call, *, mapped: bool) -> None:
        self.call, self.mapped = call, mapped
        manifest, target = call.bundle.manifest, call.request.target
        self.manifest = manifest
        self.texts = [self._graph(encoder.graph) for encoder in manifest.text_encoders]
        self.native = self._graph(NATIVE_GRAPH, call.batch)
        self.upsample = self._graph(target.upsample, call.batch)
        self.target = self._graph(target.step, call.batch)
        self.decoder = self._graph(manifest.vae.decoder)

    def bytes_by_phase(
        self, weights: WeightsMode, attention: NativeAttentionChoice, tiling: Tiling | None
    ) -> dict[str, int]:
        """Bytes of the process in each phase, in order."""
        loaded = self._loaded(tiling)
        everything = sum(self._held(graph) for graphs in loaded.values() for graph in graphs)
        found, before = {}, 0
        for phase, graphs in loaded.items():
            if weights == "packed":
                # All sessions stay, with their arenas: in a second call, everything is there.
                size = max(before + self._peak(*graphs), everything)
                before += sum(self._held(graph) for graph in graphs)
            elif phase == "text":  # one encoder after the other
                size = max(self._peak(graph) for graph in graphs)
            elif attention == "replay" and phase == "upsample":
                size = self._peak(*graphs, idle=[self.native])
            elif attention == "replay" and phase == "target":
                size = self._peak(self.native, *graphs)
            else:
                size = self._peak(*graphs)
            waiting = self._waiting(phase, attention)
            found[phase] = self.call.base_bytes + OVERHEAD_BYTES + size + waiting
        return found

    def _graph(self, graph: str, runs: float = 1) -> GraphMemory:
        memory = self.call.backend.memory_of(self.call.bundle, graph, low_memory=self.mapped)
        return replace(memory, running_bytes=math.ceil(memory.running_bytes * runs))

    def _loaded(self, tiling: Tiling | None) -> dict[str, list[GraphMemory]]:
        """Each phase of the call with the graphs that are loaded in it."""
        method = self.call.request.method
        loaded = {"text": self.texts}
        if method.needs_native_stage or self.call.native_wanted:
            loaded["native"] = [self.native]
        if method.needs_native_stage:
            loaded["upsample"] = [self.upsample]
        loaded["target"] = [self.target]
        if self.call.output_type != "latent":
            loaded["decode"] = [self._decoder(tiling)]
        return loaded

    def _decoder(self, tiling: Tiling | None) -> GraphMemory:
        """The decoder at work on the largest piece that it is given."""
        height, width = self.manifest.latent_size(self.call.request.target)
        if tiling is not None:
            height, width = min(height, tiling.tile), min(width, tiling.tile)
        samples = height * width
        if self.call.native_wanted:  # native pictures are decoded in one piece
            native_height, native_width = self.manifest.latent_size(self.manifest.native)
            samples = max(samples, native_height * native_width)
        running = math.ceil(self.decoder.running_bytes * samples / VAE_SAMPLES)
        return replace(self.decoder, running_bytes=running)

    def _held(self, graph: GraphMemory) -> int:
        """A loaded graph between its runs; an arena, which low memory does without, keeps all."""
        return graph.own_bytes + (0 if self.mapped else graph.running_bytes)

    def _peak(self, *graphs: GraphMemory, idle: Sequence[GraphMemory] = ()) -> int:
        """Graphs that are loaded one after the other and stay; weights they share count once.

        Each is being loaded or runs while those before it, and `idle` ones, are held; then all of
        them run in turn.
        """
        before = sum(self._held(graph) for graph in idle)
        peak = before
        for graph in graphs:
            busy = max(graph.loading_bytes, graph.own_bytes + graph.running_bytes)
            peak = max(peak, before + busy)
            before += self._held(graph)
        if self.mapped:
            before += max(graph.running_bytes for graph in graphs)
        return max(peak, before) + max(graph.shared_bytes for graph in (*idle, *graphs))

    def _waiting(self, phase: str, attention: NativeAttentionChoice) -> int:
        """Native attention, latents and pictures, besides the graphs."""
        if phase == "text":
            return 0
        call, request = self.call, self.call.request
        count = len(request.pictures)
        if phase == "decode":
            pictures = count * (2 if call.native_wanted else 1)
            finished = pictures * _FINISHED_BYTES_PER_PIXEL[call.output_type]
            return (
                request.target.height * request.target.width * (finished + _DECODED_BYTES_PER_PIXEL)
            )
        steps = request.num_inference_steps
        specs = tap_specs(self.manifest, request.target.step)
        taps = stored_bytes(specs, {"B": call.batch}, steps if attention == "store" else 1)
        trajectory = call.batch * steps * self._latent_bytes(native=True)
        latents = (call.batch * _LATENT_COPIES + count) * self._latent_bytes(native=False)
        return taps + trajectory + latents

    def _latent_bytes(self, *, native: bool) -> int:
        size = self.manifest.native if native else self.call.request.target
        channels = self.manifest.model.latent_channels
        return _FLOAT_BYTES * channels * math.prod(self.manifest.latent_size(size))
