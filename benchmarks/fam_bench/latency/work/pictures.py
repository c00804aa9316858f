"""Whole pictures by the runtime's pipeline, in one of its backends or in PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fam_bench.latency.ablated_graphs import ablated_bundle, ablated_graph
from fam_bench.latency.feeds import PROMPT, SEED
from fam_bench.latency.libraries.backends import open_contestant
from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work.base import Arrays, Work
from fam_bench.latency.work.decoding import decode_latent
from fam_runtime.backends.pool import RunnerPool
from fam_runtime.bundle import Bundle
from fam_runtime.conditions import stage_conditions, texts_to_encode
from fam_runtime.noise import noise_source
from fam_runtime.picture import rgb_from_image
from fam_runtime.pipeline import FamPipeline
from fam_runtime.prompt import PromptEncoder
from fam_runtime.request import resolve_request
from fam_runtime.sampler import PictureNoise, Sampling, native_program, run_stage
from fam_runtime.schedulers import NoiseSchedule, make_plan
from fam_runtime.stage_program import Unwatched


class Picture(Work):
    """Both stages, as users get them."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        bundle = Bundle.open(job.bundle, verify="size")
        self._pipeline = FamPipeline(bundle, open_contestant(job, self.clock))
        self._job = job

    def once(self) -> None:
        """A picture as PIL makes it of pixels, from the prompt on."""
        self.stages = dict(self._make().report["seconds"])

    def results(self) -> Arrays:
        """The latent, float32, and the picture, uint8 ``[height, width, 3]``."""
        output = self._make()
        return {"latent": output.latents, "rgb": np.asarray(output.images[0])}

    def close(self) -> None:
        """Free the graphs."""
        self._pipeline.close()

    def _make(self) -> Any:
        return self._pipeline(
            PROMPT, scale=self._job.scale, seed=SEED, num_inference_steps=self._job.steps
        )


class DirectPicture(Work):
    """A picture by direct inference: random noise denoised at the target size by the plain UNet.

    The pipeline's own method ``direct`` runs the graph with FM and AM at weight 0; this is what it
    would cost without them.
    """

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        self._bundle = Bundle.open(job.bundle, verify="size")
        manifest = self._bundle.manifest
        self._backend = open_contestant(job, self.clock)
        self._pool = RunnerPool(self._backend, self._bundle)
        plain = ablated_graph(manifest, "plain", job.scale)
        self._runner = self._backend.load(
            ablated_bundle(self._bundle, Path(job.ablated)), plain.name
        )
        self._runner.prepare({"B": 1})
        self._request = resolve_request(
            self._bundle, PROMPT, scale=job.scale, seed=SEED, num_inference_steps=job.steps
        )
        schedule = NoiseSchedule.from_config(manifest.noise_schedule)
        self._plan = make_plan(self._request.scheduler, schedule, job.steps)
        self._encoder = PromptEncoder(self._pool, self._bundle)

    def results(self) -> Arrays:
        """The latent and the picture, as for :class:`Picture`."""
        self.stages = {}
        manifest, request = self._bundle.manifest, self._request
        with self.timed_stage("text"):
            embeddings = self._encoder.encode(texts_to_encode(manifest, request.pictures))
        with self.timed_stage("target"):
            latent = self._denoise(embeddings)
        with self.timed_stage("decode"):
            rgb = rgb_from_image(decode_latent(self._pool, self._request, latent))[0]
        return {"latent": latent, "rgb": rgb}

    def close(self) -> None:
        """Free the graphs."""
        self._runner.close()
        self._pool.close()
        self._backend.close()

    def _denoise(self, embeddings: Any) -> Any:
        manifest, request = self._bundle.manifest, self._request
        source = noise_source(request.noise, request.pictures[0].seed)
        conditions = stage_conditions(
            manifest, request.pictures, embeddings, request.guidance_scale, request.target
        )
        # A native stage is sampling from noise with the unmodified UNet, here at another size.
        program = native_program(
            Sampling(self._plan, PictureNoise([source]), Unwatched()),
            self._runner,
            conditions,
            (manifest.model.latent_channels, *manifest.latent_size(request.target)),
        )
        result = run_stage(self._backend, replace(program, keep_trajectory=False))
        return np.array(self._backend.download(result.final))
