"""The literal reference: diffusers' modules in fp32, FM by FFT, attention maps in memory.

It is the method as the paper writes it, and what the others' results are compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fam_bench.latency.feeds import PROMPT, SCHEDULER, SEED, STEP_INDEX, STEPS, step_inputs
from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work.base import Arrays, Work
from fam_export.checkpoint import open_checkpoint
from fam_graph.attention import attention_map
from fam_graph.reference.am_dense import AttentionMaps, processors_in_place
from fam_graph.reference.components import Conditions, ReferenceComponents
from fam_graph.reference.pipeline import (
    ReferenceNoise,
    ReferenceRequest,
    ReferenceResult,
    guided_output,
    modulate_latent,
    modulating,
    recording,
    sample_native,
    sample_target,
    stage_conditions,
    upsample,
)
from fam_graph.step import added_conditions
from fam_runtime import contract
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.contract import tap_names
from fam_runtime.noise import DEFAULT_NOISE_SOURCE, noise_source
from fam_runtime.picture import rgb_from_image
from fam_runtime.schedulers import NoiseSchedule, make_plan

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest, Target


class LiteralStep(Work):
    """One step of either stage, on the feeds of the step graphs."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        bundle = Bundle.open(job.bundle, verify="size")
        manifest = self._manifest = bundle.manifest
        native = job.kind == "native"
        self._target = None if native else manifest.target_for_scale(job.scale)
        self._components, device = opened_components(job), torch.device(job.device)
        target = self._target or manifest.targets[0]
        self._request = request_of(manifest, target, SCHEDULER, STEPS)
        self._scheduler = self._components.scheduler(SCHEDULER, STEPS)
        graph = NATIVE_GRAPH if self._target is None else self._target.step
        inputs = step_inputs(bundle, manifest.graphs[graph], self._target)
        self._inputs = {
            name: torch.from_numpy(np.array(array, np.float32)).to(device)
            for name, array in inputs.items()
        }

    @torch.inference_mode()
    def results(self) -> Arrays:
        """The next latent and the prediction, float32."""
        inputs, t = self._inputs, self._scheduler.timesteps[STEP_INDEX]
        conditions = Conditions(inputs[contract.PROMPT_EMBEDS], added_conditions(inputs))
        latent = inputs[contract.LATENT]
        if self._target is None:
            processors: Any = recording(self._components, AttentionMaps())
        else:
            reference, noise = (
                inputs[name] for name in (contract.REFERENCE_LATENT, contract.REFERENCE_NOISE)
            )
            latent = modulate_latent(self._request, self._scheduler, latent, reference, noise, t)
            processors = modulating(self._components, self._request, self._native_maps())
        with processors_in_place(self._components.unet, processors):
            output = guided_output(
                self._components, self._request, conditions, self._scheduler, latent, t
            )
        stepper: Any = self._scheduler
        step = stepper.step(output, t, latent)
        return {
            contract.NEXT_LATENT: step.prev_sample.cpu().numpy(),
            contract.PREDICTION: step.pred_original_sample.cpu().numpy(),
        }

    def _native_maps(self) -> AttentionMaps:
        """``Mⁿ`` of every layer, of the native queries and keys that the step is fed."""
        taps, maps = self._manifest.taps, {}
        for layer in taps.layers:
            first, *rest = (self._inputs[name] for name in tap_names(layer.name, taps.form))
            maps[layer.name] = attention_map(first, rest[0], layer.heads) if rest else first
        return AttentionMaps(maps)


class LiteralPicture(Work):
    """A whole picture, with the native attention computed once more at each target step."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        manifest = self._manifest = Bundle.open(job.bundle, verify="size").manifest
        self._components = opened_components(job)
        self._device = torch.device(job.device)
        target = manifest.target_for_scale(job.scale)
        self._request = request_of(manifest, target, manifest.defaults.scheduler, job.steps)

    @torch.inference_mode()
    def results(self) -> Arrays:
        """The latent, float32, and the picture, uint8 ``[height, width, 3]``."""
        components, request, result = self._components, self._request, ReferenceResult()
        self.stages = {}
        noise = self._noise()
        with self.timed_stage("text"):
            conditions = stage_conditions(components, request, request.native_latent)
        with self.timed_stage("native"):
            sample_native(components, request, noise, conditions, result)
        with self.timed_stage("upsample"):
            result.reference_latent = upsample(components, request, result.native_latent)
        with self.timed_stage("target"):
            sample_target(components, request, noise, conditions, result)
        with self.timed_stage("decode"):
            image = components.decode(result.target_latent).cpu().numpy()
            rgb = rgb_from_image(image)[0]
        return {"latent": result.target_latent.cpu().numpy(), "rgb": rgb}

    def _noise(self) -> ReferenceNoise:
        """That of the runtime, in its order."""
        manifest, request = self._manifest, self._request
        source = noise_source(DEFAULT_NOISE_SOURCE, SEED)
        schedule = NoiseSchedule.from_config(manifest.noise_schedule)
        plan = make_plan(request.scheduler, schedule, request.num_inference_steps)
        channels = manifest.model.latent_channels

        def draw(size: tuple[int, int]) -> torch.Tensor:
            return torch.from_numpy(source.normal((1, channels, *size))).to(self._device)

        def draw_steps(size: tuple[int, int]) -> list[torch.Tensor]:
            if not any(step.needs_noise for step in plan.steps):
                return []
            zeros = torch.zeros((1, channels, *size), device=self._device)
            return [draw(size) if step.needs_noise else zeros for step in plan.steps]

        native, target = request.native_latent, request.target_latent
        initial, native_steps = draw(native), draw_steps(native)
        return ReferenceNoise(initial, draw(target), native_steps, draw_steps(target))

    def wait(self) -> None:
        """For a GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def opened_components(job: WorkerJob) -> ReferenceComponents:
    """The checkpoint as diffusers loads it, in fp32, without rounding to TF32."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    root = open_checkpoint(job.model).root
    components = ReferenceComponents.from_pretrained(root, torch_dtype=torch.float32)
    components.pipeline.set_progress_bar_config(disable=True)
    components.pipeline.to(job.device)
    return components


def request_of(manifest: Manifest, target: Target, scheduler: str, steps: int) -> ReferenceRequest:
    """What the bundle's defaults ask for, in its readings of the method."""
    modulation, defaults = manifest.frequency_modulation, manifest.defaults
    return ReferenceRequest(
        prompts=[PROMPT],
        native_latent=manifest.latent_size(manifest.native),
        target_latent=manifest.latent_size(target),
        scheduler=scheduler,
        num_inference_steps=steps,
        guidance_scale=defaults.guidance_scale if manifest.model.guidance else None,
        am_strength=defaults.am_strength,
        cutoff_reference=modulation.cutoff_reference,
        inside_box=modulation.inside_box,
        upsample_space=manifest.upsample.space,
        upsample_mode=manifest.upsample.mode,
        size_conditions=manifest.size_conditions or "stage",
    )
