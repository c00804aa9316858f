"""FAM Diffusion from a bundle, with the argument names of diffusers."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fam_runtime._version import __version__
from fam_runtime.arguments import whole_number
from fam_runtime.backends import DEFAULT_BACKEND, Backend, open_backend
from fam_runtime.backends.pool import RunnerPool
from fam_runtime.bundle import Bundle, KernelTables
from fam_runtime.callback import CallbackOnStepEnd, StepWatcher
from fam_runtime.closing import Closing
from fam_runtime.conditions import texts_to_encode
from fam_runtime.errors import InvalidRequest
from fam_runtime.free_memory import resident_bytes
from fam_runtime.generation import Generation, Report
from fam_runtime.memory_phases import Call, WeightsMode
from fam_runtime.memory_plan import (
    BASE_BYTES,
    MemoryPlan,
    graphs_of_request,
    plan_memory,
    within_memory_plan,
)
from fam_runtime.pipeline_output import OUTPUT_TYPES, FamPipelineOutput, OutputType
from fam_runtime.progress import NoProgress, Progress, ProgressBars, hashing_bar
from fam_runtime.prompt import PromptEncoder
from fam_runtime.request import Prompt, Request, Seed, TileChoice, resolve_request
from fam_runtime.schedulers import NoiseSchedule, make_plan
from fam_runtime.settings import settings_of_picture

if TYPE_CHECKING:
    from fam_runtime.bundle import ModelInfo
    from fam_runtime.native_attention import NativeAttentionMode
    from fam_runtime.target_choice import Scale
    from fam_runtime.tiling import Tiling

Float32Array = npt.NDArray[np.float32]


class GuidanceCost(UserWarning):
    """A call without guidance pays for it, because the bundle's graphs hold both halves."""


class NegativePromptUnused(UserWarning):
    """A negative prompt acts through guidance, and the picture is made without it."""


class FamPipeline(Closing):
    """Two-stage text-to-image from a bundle. Not for use by several threads at once.

    Args:
        bundle: an opened bundle.
        backend: runs its graphs.
        low_memory: hold the graphs of one stage at a time.
        memory_budget_bytes: see :meth:`from_pretrained`.
        progress: shows how far a call is.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        low_memory: bool = False,
        memory_budget_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if memory_budget_bytes is not None:
            whole_number("memory_budget_bytes", memory_budget_bytes)
        backend.check_bundle(bundle)
        self.bundle, self.backend, self.low_memory = bundle, backend, low_memory
        self.memory_budget_bytes = memory_budget_bytes
        self._base_bytes = resident_bytes() or BASE_BYTES
        self.progress: Progress = NoProgress() if progress is None else progress
        self.interrupt = False
        self._pool = RunnerPool(backend, bundle, keep=not low_memory)
        self._weights: WeightsMode = "mapped" if low_memory else "packed"
        self._encoder: PromptEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str = DEFAULT_BACKEND,
        low_memory: bool = False,
        memory_budget_bytes: int | None = None,
        verify: str = "full",
        progress: bool | Progress = True,
        **backend_options: Any,
    ) -> FamPipeline:
        """Open the bundle at `path`.

        Args:
            path: folder of the bundle.
            backend: library that runs the graphs.
            low_memory: share memory-mapped weights and hold one stage at a time: less memory,
                and slower; a colour may differ by 1 of 255. Latents
                above 128x128 are decoded in tiles in any case, here in smaller ones; the decoder's
                normalisation is computed per tile, so the tone can shift slightly.
            memory_budget_bytes: what the whole process may take: each call is made in the fastest
                way that fits (see :mod:`fam_runtime.memory_plan`), or refused. None: no limit, and
                native attention is stored in up to a quarter of the memory that is free.
            verify: how thoroughly files are checked; see :meth:`Bundle.open`.
            progress: bars on the standard error stream if that is a terminal, or your own; True
                shows a bar while files are hashed, too.
            backend_options: of the backend's class, such as `provider` and `num_threads` of
                :class:`OnnxruntimeBackend`, `settings` and `cache_dir` of
                :class:`TensorrtBackend`.

        Raises:
            BundleError: the bundle is missing, damaged or newer than this package.
            BackendError: the backend's library is missing.
            InvalidRequest: an option cannot be used.
        """
        library = open_backend(backend, **backend_options)
        library.use_low_memory(low_memory)
        library.check_bundle(Bundle.unchecked(path))  # before minutes of hashing
        with hashing_bar(shown=progress is True and verify == "full") as bar:
            opened = Bundle.open(path, verify=verify, progress=bar)
        shown: Progress | None = None if isinstance(progress, bool) else progress
        if progress is True:
            shown = ProgressBars()
        return cls(
            opened,
            library,
            low_memory=low_memory,
            memory_budget_bytes=memory_budget_bytes,
            progress=shown,
        )

    def __call__(
        self,
        prompt: Prompt,
        negative_prompt: Prompt | None = None,
        *,
        scale: Scale | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: Seed = 0,
        num_images_per_prompt: int = 1,
        method: str | None = None,
        scheduler: str | None = None,
        am_strength: float | None = None,
        native_attention: NativeAttentionMode = "auto",
        noise: str | None = None,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        output_type: OutputType = "pil",
        return_native: bool = False,
        tile: TileChoice = "auto",
        pictures_per_batch: int = 1,
        fm_tables: KernelTables | None = None,
    ) -> FamPipelineOutput:
        """Make pictures.

        Args:
            prompt: one text, or several.
            negative_prompt: what to keep away from; one text for all prompts, or one per prompt.
            scale: size as a factor of the native one, or a pair of them (height, width).
            height, width: size in pixels instead. Without either, the bundle's smallest target.
            num_inference_steps, guidance_scale, scheduler, am_strength: None: what the bundle says.
            seed: picture `i` has the seed ``seed + i``; or one seed per picture; None draws one.
            num_images_per_prompt: pictures per prompt.
            method: a name of :data:`fam_runtime.methods.METHODS`.
            native_attention: store the native attention, replay it, or what the memory allows.
            noise: which of torch's generators to reproduce, ``"torch-cpu"`` or ``"torch-cuda"``.
            callback_on_step_end: see :mod:`fam_runtime.callback`.
            output_type: ``"pil"``, ``"np"`` or ``"latent"``.
            return_native: give the native stage's pictures too.
            tile: VAE tile in latent samples, None for one piece, ``"auto"`` by size.
            pictures_per_batch: pictures that go through a graph together. More is faster on a GPU,
                and may change the last bits of a picture; with 1 it never depends on its company.
            fm_tables: FM kernels instead of the bundle's (for measurements).

        Raises:
            InvalidRequest: an argument cannot be used.
            TargetNotBuilt: the bundle has no such size.
            NumericError: a picture became NaN.
            Cancelled: the callback stopped the call.
            BackendError: the backend failed.
        """
        try:
            _check_output_type(output_type)
            _check_callback(callback_on_step_end)
            request = resolve_request(
                self.bundle,
                prompt,
                negative_prompt,
                scale=scale,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                seed=seed,
                num_images_per_prompt=num_images_per_prompt,
                method=method,
                scheduler=scheduler,
                am_strength=am_strength,
                native_attention=native_attention,
                noise=noise,
                tile=tile,
                pictures_per_batch=pictures_per_batch,
                low_memory=self.low_memory,
            )
            memory = self._memory_plan(request, output_type, native_wanted=return_native)
            generation = self._prepare(request, memory, fm_tables, callback_on_step_end)
            return self._generate(generation, output_type, fm_tables, return_native=return_native)
        finally:
            self.interrupt = False
            self.progress.close()

    @property
    def made_with(self) -> dict[str, str]:
        """Programs, versions and modes that decide a picture's last bits."""
        return {"fam_runtime": __version__, "numpy": np.__version__, **self.backend.describe()}

    def close(self) -> None:
        """Free every loaded graph; a later call loads them again."""
        self._pool.close()
        self.backend.close()

    def _memory_plan(
        self, request: Request, output_type: OutputType, *, native_wanted: bool
    ) -> MemoryPlan | None:
        """How to keep within the budget, where there is one; frees what is in its way."""
        if self.memory_budget_bytes is None:
            return None
        call = Call(
            self.bundle, self.backend, request, output_type, native_wanted, self._base_bytes
        )
        plan = plan_memory(call, self.memory_budget_bytes, low_memory=self.low_memory)
        if plan.weights != self._weights:
            self._pool.close()
            self._weights = plan.weights
        self.backend.use_low_memory(plan.weights == "mapped")
        self._pool.keep = plan.weights == "packed"
        self._pool.keep_only(graphs_of_request(self.bundle.manifest, request))
        return plan

    def _prepare(
        self,
        request: Request,
        memory: MemoryPlan | None,
        fm_tables: KernelTables | None,
        callback: CallbackOnStepEnd | None,
    ) -> Generation:
        manifest = self.bundle.manifest
        if memory is not None:
            request = within_memory_plan(request, memory)
        schedule = NoiseSchedule.from_config(manifest.noise_schedule)
        plan = make_plan(request.scheduler, schedule, request.num_inference_steps)
        tables = self.bundle.kernel_tables(request.target) if fm_tables is None else fm_tables
        _warn_without_guidance(request, manifest.model)
        watcher = StepWatcher(self, self.backend, self.progress, callback)
        generation = Generation(self._pool, request, plan, tables, {}, watcher, Report(memory))
        with generation.timed("text"):
            if self._encoder is None:
                self._encoder = PromptEncoder(self._pool, self.bundle)
            texts = texts_to_encode(manifest, request.pictures)
            generation.embeddings = self._encoder.encode(texts)
        return generation

    def _generate(
        self,
        generation: Generation,
        output_type: OutputType,
        fm_tables: KernelTables | None,
        *,
        return_native: bool,
    ) -> FamPipelineOutput:
        request, size = generation.request, generation.request.pictures_per_batch
        batches = []
        for first in range(0, len(request.pictures), size):
            generation.watcher.picture_index = first
            pictures = request.pictures[first : first + size]
            batches.append(generation.run_batch(pictures, native_wanted=return_native))
        latents = np.concatenate([batch.target for batch in batches])
        native = [batch.native for batch in batches if batch.native is not None]
        native_latents = np.concatenate(native) if native else None
        native_images = None
        with ExitStack() as held:
            if output_type != "latent":  # one loading of the decoder for all pictures
                held.enter_context(self._pool.borrow(self.bundle.manifest.vae.decoder))
            images = self._images(generation, latents, request.tiling, output_type, "target")
            if return_native and native_latents is not None:
                native_images = self._images(
                    generation, native_latents, None, output_type, "native"
                )
        tables_hash = None if fm_tables is None else _hash_of_tables(fm_tables)
        settings = [
            settings_of_picture(self.bundle, request, picture, self.made_with, tables_hash)
            for picture in request.pictures
        ]
        return FamPipelineOutput(
            images, latents, settings, generation.finished_report(), native_images, native_latents
        )

    def _images(
        self,
        generation: Generation,
        latents: Float32Array,
        tiling: Tiling | None,
        output_type: OutputType,
        stage: Any,
    ) -> Any:
        """Pictures one by one, so that decoding takes the memory of one."""
        if output_type == "latent":
            return latents
        from fam_runtime.picture import pil_from_rgb, rgb_from_image

        finish: Callable[[Float32Array], Any] = (
            (lambda image: pil_from_rgb(rgb_from_image(image)[0]))
            if output_type == "pil"
            else unit_range_from_image
        )
        images = [
            finish(generation.decode(latents[i : i + 1], tiling, stage))
            for i in range(len(latents))
        ]
        return images if output_type == "pil" else np.concatenate(images)


def unit_range_from_image(image: Float32Array) -> Float32Array:
    """``[B, height, width, 3]`` in [0, 1] from ``[B, 3, height, width]`` in [-1, 1], float32."""
    scaled = np.clip((image + np.float32(1)) * np.float32(0.5), 0, 1)
    return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))


def _warn_without_guidance(request: Request, model: ModelInfo) -> None:
    if model.guidance and request.guidance_scale > 1:
        return
    if model.guidance:
        warnings.warn(
            "guidance_scale is 1 or less: the picture is made without guidance, but the graphs of "
            "this bundle compute both halves all the same, at twice the cost; export with "
            "--no-guidance to save it",
            GuidanceCost,
            stacklevel=4,
        )
    if any(picture.negative_prompt for picture in request.pictures):
        why = "the bundle was exported without guidance"
        if model.guidance:
            why = "guidance_scale is 1 or less"
        elif model.guidance_embedding:
            why = "this checkpoint takes the guidance scale as a condition, and no second text"
        warnings.warn(
            f"the negative prompt has no effect: {why}", NegativePromptUnused, stacklevel=4
        )


def _check_output_type(output_type: str) -> None:
    if output_type not in OUTPUT_TYPES:
        raise InvalidRequest(
            "unknown output_type",
            got=output_type,
            expected=" or ".join(OUTPUT_TYPES),
            fix="use pil",
        )


def _check_callback(callback: object) -> None:
    if callback is not None and not callable(callback):
        raise InvalidRequest(
            "callback_on_step_end cannot be called",
            got=type(callback).__name__,
            expected="a function of (pipe, step_index, timestep, callback_kwargs)",
        )


def _hash_of_tables(tables: KernelTables) -> str:
    digest = hashlib.sha256()
    for array in (tables.rows, tables.columns, tables.weight):
        digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    return digest.hexdigest()
