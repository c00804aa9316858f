"""The work of one unit, inside its own process: load, run, hand back what was computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fam_bench.engine_build import BuildClock
from fam_bench.every_output import writing_every_output
from fam_bench.gpu_units import BY_NAME, COMPILED, REFERENCE, WorkerJob
from fam_bench.plain_graph import plain_bundle, plain_name
from fam_bench.probe_feeds import probe_step, step_inputs
from fam_runtime import contract
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.stage_program import StageProgram, StoredAttention, Unwatched

if TYPE_CHECKING:
    from fam_runtime.backends.base import Backend
    from fam_runtime.bundle import Manifest
    from fam_runtime.stage_program import Stage

PROMPT = "a red circle on a white background"
SEED = 0

TAP_PREFIX = "attention_"
TABLES = (
    contract.TIMESTEP,
    contract.STEP_COEFFICIENTS,
    contract.FM_KERNEL_ROWS,
    contract.FM_KERNEL_COLUMNS,
    contract.FM_WEIGHT,
)
"""Inputs that change from step to step in a run."""

FED_BY_THE_LOOP = (contract.LATENT, contract.PREVIOUS_PREDICTION, contract.STEP_NOISE)

Arrays = Mapping[str, NDArray[Any]]


class Work(ABC):
    """A unit that is loaded; making one loads it.

    Attributes:
        clock: knows how long engines were built.
        stages: seconds per stage of the last run; empty for a step.
        device_seconds: of a step in the last run, on average, as the GPU measured it; None where
            nothing did.
    """

    def __init__(self) -> None:
        self.clock = BuildClock()
        self.stages: dict[str, float] = {}
        self.device_seconds: float | None = None

    @abstractmethod
    def run(self, repeats: int) -> Any:
        """Do it so many times in a row, until the last result is on the host."""

    @abstractmethod
    def results(self) -> Arrays:
        """Do it once, and give everything that was computed."""

    def close(self) -> None:
        """Free what is loaded, and keep what saves time the next time."""
        return


class BackendStep(Work):
    """A step graph in one of the runtime's backends, driven as in a stage."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        bundle, graph = step_graph(job)
        self._backend = open_contestant(job, self.clock)
        self._runner = writing_every_output(self._backend, self._backend.load(bundle, graph))
        self._runner.prepare({"B": 1})  # some libraries have loaded nothing yet
        self._stage: Stage = "native" if job.kind == "native" else "target"
        self._step = probe_step(bundle.manifest)
        self._inputs = step_inputs(bundle.manifest, graph)
        self._taps = {
            name: self._backend.upload(array)
            for name, array in self._inputs.items()
            if name.startswith(TAP_PREFIX)
        }

    def run(self, repeats: int) -> Any:
        """A stage of the same step over and over; its last latent."""
        result = self._backend.stage_loop().run(self._program(repeats))
        self.device_seconds = result.step_seconds
        return self._backend.download(result.final)

    def results(self) -> Arrays:
        """Every output."""
        values = self._runner.run({**self._inputs, **self._taps})
        return {name: np.array(self._backend.download(value)) for name, value in values.items()}

    def close(self) -> None:
        """Free the engine; TensorRT for RTX keeps the kernels it compiled."""
        self._runner.close()
        self._backend.close()

    def _program(self, steps: int) -> StageProgram:
        inputs = self._inputs
        tables = {
            name: np.repeat(inputs[name][None], steps, 0) for name in TABLES if name in inputs
        }
        own = {*tables, *self._taps, *FED_BY_THE_LOOP}
        return StageProgram(
            stage=self._stage,
            runner=self._runner,
            steps=(self._step,) * steps,
            first_latent=inputs[contract.LATENT],
            constants={name: array for name, array in inputs.items() if name not in own},
            tables=tables,
            draw_noise=lambda: inputs[contract.STEP_NOISE],
            observer=Unwatched(),
            attention=StoredAttention([self._taps] * steps) if self._taps else None,
        )


class TorchStep(Work):
    """The module of a step in PyTorch, as it is or compiled."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        import torch

        from fam_bench.step_definitions import step_definitions

        if job.threads is not None:
            torch.set_num_threads(job.threads)
        manifest = Bundle.open(job.bundle, verify="size").manifest
        tf32 = uses_tf32(manifest)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        target = manifest.targets[0] if job.scale == 1 else manifest.target_for_scale(job.scale)
        definition = getattr(step_definitions(manifest, job.model, target), job.kind)
        module = definition.module.to(job.device).eval()
        if job.contestant == COMPILED:
            module = torch.compile(module)
        self._module, self._device = module, job.device
        self._torch: Any = torch
        bundle, graph = step_graph(job)
        self._inputs = {
            name: torch.from_numpy(np.array(array)).to(job.device)
            for name, array in step_inputs(bundle.manifest, graph).items()
        }

    def _outputs(self) -> dict[str, Any]:
        with self._torch.inference_mode():
            outputs: dict[str, Any] = self._module(self._inputs)
        return outputs

    def run(self, repeats: int) -> Any:
        """Steps that are queued one after the other; the last one's latent."""
        begun = self._mark()
        for _ in range(repeats):
            outputs = self._outputs()
        ended = self._mark()
        latent = outputs[contract.NEXT_LATENT].cpu()  # waits, so that both marks have passed
        if begun is not None:
            self.device_seconds = begun.elapsed_time(ended) / 1000 / repeats
        return latent

    def _mark(self) -> Any:
        """An event on the GPU's stream; None on the CPU."""
        if self._device == "cpu":
            return None
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def results(self) -> Arrays:
        """Every output."""
        return {name: value.cpu().numpy() for name, value in self._outputs().items()}


class Picture(Work):
    """A whole picture by the runtime."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        from fam_runtime import FamPipeline

        bundle = Bundle.open(job.bundle, verify="size")
        self._pipeline = FamPipeline(bundle, open_contestant(job, self.clock))
        self._job = job

    def run(self, repeats: int) -> Any:
        """Pictures, float32 ``[1, height, width, 3]`` in [0, 1]; the last one."""
        for _ in range(repeats):
            output = self._pipeline(
                PROMPT,
                scale=self._job.scale,
                seed=SEED,
                num_inference_steps=self._job.steps,
                output_type="np",
            )
        self.stages = dict(output.report["seconds"])
        return output.images

    def results(self) -> Arrays:
        """The picture."""
        return {"picture": self.run(1)}

    def close(self) -> None:
        """Free the graphs."""
        self._pipeline.close()


def open_work(job: WorkerJob) -> Work:
    """Load a unit.

    Raises:
        FamError: the backend or the bundle cannot do it.
        ImportError: a package is missing.
    """
    if job.kind == "picture":
        return Picture(job)
    return BackendStep(job) if BY_NAME[job.contestant].backend else TorchStep(job)


def open_contestant(job: WorkerJob, clock: BuildClock) -> Backend:
    """The runtime's backend of a contestant, whose builds `clock` measures.

    Raises:
        FamError: its library is missing, or there is no device for it.
    """
    from fam_runtime.backends import open_backend

    name = BY_NAME[job.contestant].backend
    if name != "onnxruntime":
        return open_backend(name, cache_dir=job.cache, build_progress=clock)
    provider = "cpu" if job.contestant == REFERENCE else "cuda"
    return open_backend(name, provider=provider, num_threads=job.threads)


def uses_tf32(manifest: Manifest) -> bool:
    """Whether float32 products round their factors on a GPU: as the runtime's backends decide."""
    return manifest.model.dtype != "fp32"


def step_graph(job: WorkerJob) -> tuple[Bundle, str]:
    """The bundle with the graph of a step, and the graph's name."""
    bundle = Bundle.open(job.bundle, verify="size")
    if job.kind == "native":
        return bundle, NATIVE_GRAPH
    target = bundle.manifest.target_for_scale(job.scale)
    if job.kind == "target":
        return bundle, target.step
    return plain_bundle(bundle, Path(job.plain)), plain_name(target)
