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
from fam_runtime.backends.base import Runner, Values
from fam_runtime.backends.pool import RunnerPool
from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.callback import StepWatcher
from fam_runtime.conditions import stage_conditions
from fam_runtime.memory_plan import MemoryPlan
from fam_runtime.native_attention import (
    NativeAttentionChoice,
    NativeAttentionSource,
    NoNativeAttention,
    ReplayedAttention,
    StoredAttention,
    all_tap_names,
    choose_native_attention,
    default_memory_budget_bytes,
    stored_bytes,
    tap_specs,
)
from fam_runtime.noise import noise_source
from fam_runtime.prompt import TextEmbedding
from fam_runtime.request import PictureRequest, Request
from fam_runtime.sampler import (
    NativeTrajectory,
    PictureNoise,
    Stage,
    StageRun,
    check_finite,
    run_native_stage,
    run_target_stage,
)
from fam_runtime.schedulers import SamplingPlan
from fam_runtime.tiling import Tiling, decode_tiled, tile_count

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
        seconds: per stage; `load` is the time for loading graphs in all of them.
    """

    memory: MemoryPlan | None = None
    native_attention: NativeAttentionChoice = "none"
    stored_bytes: int = 0
    memory_budget_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        memory = None if self.memory is None else self.memory.as_dict()
        return dict(vars(self), seconds=dict(self.seconds), memory=memory)


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
        self._choose_native_attention()

    def run_batch(
        self, pictures: Sequence[PictureRequest], *, native_wanted: bool = False
    ) -> BatchLatents:
        """Both stages; the native one is skipped where neither the method nor the user wants it."""
        needed = self.request.method.needs_native_stage
        noise = self._noise(pictures)
        with ExitStack() as held:
            trajectory = None
            if needed or native_wanted:
                # A picture must not depend on whether its native twin was asked for.
                native_noise = noise if needed else self._noise(pictures)
                runner = held.enter_context(self._native_runner())
                trajectory = self._native_stage(runner, pictures, native_noise)
                if self.report.native_attention != "replay":
                    held.close()
            reference = self._reference_latent(trajectory if needed else None, len(pictures))
            target = self._target_stage(held, pictures, noise, reference, trajectory)
        native = None if trajectory is None else self.backend.download(trajectory.final)
        return BatchLatents(native, target)

    def decode(self, latent: Float32Array, tiling: Tiling | None, stage: Stage) -> Float32Array:
        """A picture, float32 ``[B, 3, height, width]`` in about [-1, 1], from its latent.

        Raises:
            NumericError: it holds NaN or infinity.
        """
        factor = self.manifest.model.vae_scale_factor
        height, width = latent.shape[2:]
        tiles = 1 if tiling is None else tile_count(height, width, tiling)
        self.watcher.start(f"decode {stage}", tiles)
        graph = self.manifest.vae.decoder
        with self.timed("decode"), self.pool.borrow(graph) as runner:

            def decode_piece(piece: Float32Array) -> Float32Array:
                values = runner.run({contract.LATENT: self.backend.upload(piece)})
                return self.backend.download(values[contract.IMAGE])

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

    def _choose_native_attention(self) -> None:
        request, report = self.request, self.report
        specs = tap_specs(self.manifest, request.target.step)
        batch = min(request.pictures_per_batch, len(request.pictures))
        report.memory_budget_bytes = (
            default_memory_budget_bytes() if report.memory is None else report.memory.budget_bytes
        )
        report.stored_bytes = stored_bytes(specs, self._tap_sizes(batch), len(self.plan.steps))
        report.native_attention = choose_native_attention(
            request.native_attention,
            request.am_strength,
            report.stored_bytes,
            report.memory_budget_bytes,
        )

    def _native_stage(
        self, runner: Runner, pictures: Sequence[PictureRequest], noise: PictureNoise
    ) -> NativeTrajectory:
        self.watcher.start("native", len(self.plan.steps))
        run = self._stage_run("native", runner, pictures, noise, self.manifest.native)
        names = all_tap_names(self.manifest) if self.report.native_attention == "store" else ()
        shape = (
            self.manifest.model.latent_channels,
            *self.manifest.latent_size(self.manifest.native),
        )
        with self.timed("native"):
            return run_native_stage(run, shape, names)

    def _reference_latent(self, trajectory: NativeTrajectory | None, batch: int) -> Float32Array:
        """``z̃_0 = U(z_0^n)``; zeros for a method that takes nothing from the native stage."""
        target = self.request.target
        shape = (batch, self.manifest.model.latent_channels, *self.manifest.latent_size(target))
        if trajectory is None:
            return np.zeros(shape, np.float32)
        with self.timed("upsample"), self.pool.borrow(target.upsample) as runner:
            values = runner.run({contract.LATENT: trajectory.final})
            return self.backend.download(values[contract.REFERENCE_LATENT])

    def _target_stage(
        self,
        held: ExitStack,
        pictures: Sequence[PictureRequest],
        noise: PictureNoise,
        reference: Float32Array,
        trajectory: NativeTrajectory | None,
    ) -> Float32Array:
        target = self.request.target
        runner = held.enter_context(self.pool.borrow(target.step))
        self.watcher.start(f"target {target.size}", len(self.plan.steps))
        run = self._stage_run("target", runner, pictures, noise, target)
        attention = self._native_attention(held, pictures, trajectory)
        with self.timed("target"):
            latent = run_target_stage(
                run,
                reference,
                self.request.method,
                self.request.am_strength,
                self.tables,
                attention,
            )
            return self.backend.download(latent)

    def _native_attention(
        self,
        held: ExitStack,
        pictures: Sequence[PictureRequest],
        trajectory: NativeTrajectory | None,
    ) -> NativeAttentionSource:
        choice = self.report.native_attention
        if choice == "none" or trajectory is None:
            specs = tap_specs(self.manifest, self.request.target.step)
            return NoNativeAttention(self.backend, specs, self._tap_sizes(len(pictures)))
        if choice == "store":
            return StoredAttention(trajectory.taps)
        return ReplayedAttention(
            held.enter_context(self._native_runner()),
            all_tap_names(self.manifest),
            self.plan.steps,
            trajectory.latents,
            self._conditions(pictures, self.manifest.native),
        )

    def _stage_run(
        self,
        stage: Stage,
        runner: Runner,
        pictures: Sequence[PictureRequest],
        noise: PictureNoise,
        size: PixelSize | Target,
    ) -> StageRun:
        conditions = self._conditions(pictures, size)
        return StageRun(
            stage,
            self.backend,
            runner,
            self.plan,
            conditions,
            noise,
            self.watcher.after_step,
            self.manifest.model.dtype,
        )

    def _conditions(self, pictures: Sequence[PictureRequest], size: PixelSize | Target) -> Values:
        return stage_conditions(
            self.backend,
            self.manifest,
            pictures,
            self.embeddings,
            self.request.guidance_scale,
            size,
        )

    def _noise(self, pictures: Sequence[PictureRequest]) -> PictureNoise:
        return PictureNoise([noise_source(self.request.noise, p.seed) for p in pictures])

    def _native_runner(self) -> Any:
        return self.pool.borrow(NATIVE_GRAPH)

    def _tap_sizes(self, batch: int) -> dict[str, int]:
        return {"B": batch}

    def _after_tile(self) -> None:
        self.watcher.progress.advance()
        self.watcher.check_interrupt()
