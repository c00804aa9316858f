"""One call of the pipeline at work: both stages for a batch of pictures, and their decoding."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fam_runtime import contract
from fam_runtime.backends.base import Array, Runner
from fam_runtime.backends.checks import check_output
from fam_runtime.backends.pool import RunnerPool
from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.callback import StepWatcher
from fam_runtime.conditions import stage_conditions
from fam_runtime.memory_plan import MemoryPlan
from fam_runtime.native_attention import (
    NativeAttentionChoice,
    all_tap_names,
    choose_native_attention,
    default_memory_budget_bytes,
    no_native_attention,
    stored_bytes,
    tap_specs,
)
from fam_runtime.noise import noise_source
from fam_runtime.prompt import TextEmbedding
from fam_runtime.request import PictureRequest, Request
from fam_runtime.sampler import (
    PictureNoise,
    Sampling,
    check_finite,
    native_program,
    run_stage,
    target_program,
)
from fam_runtime.schedulers import SamplingPlan
from fam_runtime.stage_program import (
    NativeAttention,
    ReplayedAttention,
    Stage,
    StageProgram,
    StageResult,
    StageShape,
    StoredAttention,
)
from fam_runtime.tiling import Tiling, decode_tiled, tile_count, tile_size

if TYPE_CHECKING:
    from fam_runtime.bundle import KernelTables, PixelSize, Target

Float32Array = npt.NDArray[np.float32]


@dataclass
class Report:
    """What a call did, besides pictures.

    Attributes:
        memory: the plan that keeps within the memory budget, where there is one.
        native_attention: *none*, *store* or *replay*.
        stored_bytes: what *store* takes for a batch.
        memory_budget_bytes: what the native attention was allowed to take without a plan, else
            what the process is.
        device_buffers: bytes of the buffers that stay on the device for all steps of a call; 0 on
            the host, where values come and go.
        seconds: per stage; `load` is the time for loading graphs in all of them.
        step_seconds: mean time of a step per stage, as the device measured it.
    """

    memory: MemoryPlan | None = None
    native_attention: NativeAttentionChoice = "none"
    stored_bytes: int = 0
    memory_budget_bytes: int = 0
    device_buffers: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        memory = None if self.memory is None else self.memory.as_dict()
        copied = {name: dict(getattr(self, name)) for name in ("seconds", "step_seconds")}
        return {**vars(self), **copied, "memory": memory}


@dataclass(frozen=True, eq=False)
class NativeStage:
    """The native stage of a batch, done: its program, to do it again, and what it left."""

    program: StageProgram
    result: StageResult


@dataclass(frozen=True)
class BatchLatents:
    """Final latents of a batch, float32 ``[B, C, h, w]``; native ones only where that stage ran."""

    native: Float32Array | None
    target: Float32Array


class Generation:
    """What the batches of a call share.

    Args:
        pool: loads graphs.
        request: the checked call.
        plan: the sampler's steps, the same in both stages.
        tables: FM kernels of the target size.
        embeddings: of every text.
        watcher: progress, callback, stopping.
    """

    def __init__(
        self,
        pool: RunnerPool,
        request: Request,
        plan: SamplingPlan,
        tables: KernelTables,
        embeddings: Mapping[str, TextEmbedding],
        watcher: StepWatcher,
        report: Report,
    ) -> None:
        self.pool, self.request, self.plan, self.tables = pool, request, plan, tables
        self.embeddings, self.watcher, self.report = embeddings, watcher, report
        self.backend, self.bundle = pool.backend, pool.bundle
        self.manifest = pool.bundle.manifest
        self._loaded_before = pool.load_seconds
        self._preload()
        self._choose_native_attention()

    def run_batch(
        self, pictures: Sequence[PictureRequest], *, native_wanted: bool = False
    ) -> BatchLatents:
        """Both stages; the native one is skipped where neither the method nor the user wants it."""
        needed = self.request.method.needs_native_stage
        noise = self._noise(pictures)
        self._reserve(len(pictures), native_wanted=needed or native_wanted)
        with ExitStack() as held:
            native = None
            if needed or native_wanted:
                # A picture must not depend on whether its native twin was asked for.
                native_noise = noise if needed else self._noise(pictures)
                runner = held.enter_context(self.pool.borrow(NATIVE_GRAPH, B=len(pictures)))
                native = self._native_stage(runner, pictures, native_noise)
                if self.report.native_attention != "replay":
                    held.close()
            reference = self._reference_latent(native if needed else None, len(pictures))
            # Only a replay holds the native runner still, because it holds its program.
            target = self._target_stage(held, pictures, noise, reference, native)
        final = None if native is None else self.backend.download(native.result.final)
        return BatchLatents(final, target)

    def decode(self, latent: Float32Array, tiling: Tiling | None, stage: Stage) -> Float32Array:
        """A picture, float32 ``[B, 3, height, width]`` in about [-1, 1], from its latent.

        Raises:
            NumericError: it holds NaN or infinity.
        """
        factor = self.manifest.model.vae_scale_factor
        height, width = latent.shape[2:]
        tiles = 1 if tiling is None else tile_count(height, width, tiling)
        self.watcher.start(f"decode {stage}", tiles)
        tile = (height, width) if tiling is None else tile_size(height, width, tiling)
        sizes = dict(zip("hw", tile, strict=True))
        decoder = self.pool.borrow(self.manifest.vae.decoder, B=len(latent), **sizes)
        with self.timed("decode"), decoder as runner:

            def decode_piece(piece: Float32Array) -> Float32Array:
                values = runner.run({contract.LATENT: self.backend.upload(piece)})
                size = [factor * side for side in piece.shape[2:]]
                value = values[contract.IMAGE]
                check_output(runner.graph, contract.IMAGE, value, (len(piece), 3, *size))
                return self.backend.download(value)

            if tiling is None:
                image = decode_piece(latent)
                self._after_tile()
            else:
                image = decode_tiled(decode_piece, latent, tiling, factor, self._after_tile)
        check_finite(f"the {stage} picture", image, self.manifest.model.dtype)
        return image

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a block's time to the report, without the time for loading graphs in it."""
        started, loaded = time.perf_counter(), self.pool.load_seconds
        try:
            yield
        finally:
            loading = self.pool.load_seconds - loaded
            seconds = self.report.seconds
            elapsed = time.perf_counter() - started - loading
            seconds[stage] = seconds.get(stage, 0.0) + elapsed

    def finished_report(self) -> dict[str, Any]:
        """The report, with the time for loading graphs in the whole call, timed blocks or not."""
        self.report.seconds["load"] = self.pool.load_seconds - self._loaded_before
        return self.report.as_dict()

    def _preload(self) -> None:
        """On a device, graphs and what they are fed share its memory: the graphs come first."""
        request = self.request
        if not self.pool.keep or not self.backend.place.holds_graphs:
            return
        graphs = [request.target.step]
        if request.method.needs_native_stage:
            graphs = [NATIVE_GRAPH, request.target.upsample, *graphs]
        self.pool.preload(graphs, B=min(request.pictures_per_batch, len(request.pictures)))

    def _choose_native_attention(self) -> None:
        request, report = self.request, self.report
        specs = tap_specs(self.manifest, request.target.step)
        batch = min(request.pictures_per_batch, len(request.pictures))
        report.memory_budget_bytes = (
            default_memory_budget_bytes(self.backend.place)
            if report.memory is None
            else report.memory.budget_bytes
        )
        report.stored_bytes = stored_bytes(specs, {"B": batch}, len(self.plan.steps))
        report.native_attention = choose_native_attention(
            request.native_attention,
            request.am_strength,
            report.stored_bytes,
            report.memory_budget_bytes,
        )

    def _reserve(self, batch: int, *, native_wanted: bool) -> None:
        """Have a device's buffers ready before the first step, or say that they do not fit."""
        target, steps = self.request.target, self.plan.steps
        noisy, choice = tuple(step.needs_noise for step in steps), self.report.native_attention
        taps = tap_specs(self.manifest, target.step)
        stages = [
            StageShape(
                "target",
                self.manifest.graphs[target.step],
                batch,
                noisy,
                keep_trajectory=False,
                taps=taps,
                tap_slots=0 if choice == "store" else 1,
            )
        ]
        if native_wanted:
            slots = len(steps) if choice == "store" else 0
            graph = self.manifest.graphs[NATIVE_GRAPH]
            stages.append(
                StageShape(
                    "native",
                    graph,
                    batch,
                    noisy,
                    keep_trajectory=True,
                    taps=taps,
                    tap_slots=slots,
                )
            )
        reserved = self.backend.stage_loop().reserve(stages)
        self.report.device_buffers = max(self.report.device_buffers, reserved)

    def _native_stage(
        self, runner: Runner, pictures: Sequence[PictureRequest], noise: PictureNoise
    ) -> NativeStage:
        self.watcher.start("native", len(self.plan.steps))
        native, model = self.manifest.native, self.manifest.model
        program = native_program(
            Sampling(self.plan, noise, self.watcher),
            runner,
            self._conditions(pictures, native),
            (model.latent_channels, *self.manifest.latent_size(native)),
            all_tap_names(self.manifest) if self.report.native_attention == "store" else (),
        )
        return NativeStage(program, self._run(program))

    def _reference_latent(self, native: NativeStage | None, batch: int) -> Float32Array:
        """``z̃_0 = U(z_0^n)``; zeros for a method that takes nothing from the native stage."""
        target = self.request.target
        shape = (batch, self.manifest.model.latent_channels, *self.manifest.latent_size(target))
        if native is None:
            return np.zeros(shape, np.float32)
        with self.timed("upsample"), self.pool.borrow(target.upsample, B=batch) as runner:
            values = runner.run({contract.LATENT: native.result.final})
            value = values[contract.REFERENCE_LATENT]
            check_output(runner.graph, contract.REFERENCE_LATENT, value, shape)
            return self.backend.download(value)

    def _target_stage(
        self,
        held: ExitStack,
        pictures: Sequence[PictureRequest],
        noise: PictureNoise,
        reference: Float32Array,
        native: NativeStage | None,
    ) -> Float32Array:
        target = self.request.target
        runner = held.enter_context(self.pool.borrow(target.step, B=len(pictures)))
        self.watcher.start(f"target {target.size}", len(self.plan.steps))
        program = target_program(
            Sampling(self.plan, noise, self.watcher),
            runner,
            self._conditions(pictures, target),
            reference,
            self.request.method,
            self.request.am_strength,
            self.tables,
            self._attention(len(pictures), native),
        )
        return self.backend.download(self._run(program).final)

    def _run(self, program: StageProgram) -> StageResult:
        """Carry a stage out, and report how long it took."""
        with self.timed(program.stage):
            result = run_stage(self.backend, program, self.manifest.model.dtype)
        if result.step_seconds is not None:
            self.report.step_seconds[program.stage] = result.step_seconds
        return result

    def _attention(self, batch: int, native: NativeStage | None) -> NativeAttention:
        choice = self.report.native_attention
        if choice == "none" or native is None:
            specs = tap_specs(self.manifest, self.request.target.step)
            return no_native_attention(specs, {"B": batch})
        if choice == "store":
            return StoredAttention(native.result.taps)
        names = all_tap_names(self.manifest)
        return ReplayedAttention(native.program, native.result.latents, names)

    def _conditions(
        self, pictures: Sequence[PictureRequest], size: PixelSize | Target
    ) -> dict[str, Array]:
        return stage_conditions(
            self.manifest, pictures, self.embeddings, self.request.guidance_scale, size
        )

    def _noise(self, pictures: Sequence[PictureRequest]) -> PictureNoise:
        return PictureNoise([noise_source(self.request.noise, p.seed) for p in pictures])

    def _after_tile(self) -> None:
        self.watcher.progress.advance()
        self.watcher.check_interrupt()
