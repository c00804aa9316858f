"""A step of a stage, driven as in a stage, in a backend of the runtime or in PyTorch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fam_bench.latency.ablated_graphs import (
    WEIGHTS_LEFT_OUT,
    ablated_bundle,
    ablated_graph,
)
from fam_bench.latency.contestants import NATIVE_STEPS
from fam_bench.latency.feeds import TAP_PREFIX, probe_step, step_inputs
from fam_bench.latency.libraries.backends import open_contestant
from fam_bench.latency.libraries.every_output import writing_every_output
from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work.base import Arrays, Work
from fam_runtime import contract
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.stage_program import StageProgram, StoredAttention

if TYPE_CHECKING:
    from fam_runtime.backends.base import Value
    from fam_runtime.bundle import Target
    from fam_runtime.schedulers import StepPlan
    from fam_runtime.stage_program import Stage, Watching

TABLES = (
    contract.TIMESTEP,
    contract.STEP_COEFFICIENTS,
    contract.FM_KERNEL_ROWS,
    contract.FM_KERNEL_COLUMNS,
    contract.FM_WEIGHT,
)
"""Inputs that change from step to step in a run."""

FED_BY_THE_LOOP = (contract.LATENT, contract.PREVIOUS_PREDICTION, contract.STEP_NOISE)


class Stopwatch:
    """Notes when steps end, without asking a device to wait for them."""

    def __init__(self) -> None:
        self.marks = [time.perf_counter()]

    @property
    def watches(self) -> Watching:
        """Nothing within a stage."""
        return "stages"

    def after_step(
        self, stage: Stage, index: int, step: StepPlan, latent: Value
    ) -> NDArray[Any] | None:
        """Note the time."""
        self.marks.append(time.perf_counter())
        return None

    def seconds(self, repeats: int, *, at_once: bool) -> list[float]:
        """Of each step; of a row that a device does in one piece, the mean.

        Args:
            repeats: steps of the row.
            at_once: a step has been done when the loop goes on, as on the CPU.
        """
        if at_once and len(self.marks) == 1 + repeats:
            return list(np.diff(self.marks))
        return [(time.perf_counter() - self.marks[0]) / repeats]


class Step(Work):
    """A step graph, whole or with something left out."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        bundle, graph, target = step_graph(job)
        whole = Bundle.open(job.bundle, verify="size")
        spec = bundle.manifest.graphs[graph]
        self._backend = open_contestant(job, self.clock)
        self._runner = writing_every_output(self._backend, self._backend.load(bundle, graph))
        self._runner.prepare({"B": 1})  # some libraries have loaded nothing yet
        self._on_host = job.device == "cpu"
        self._stage: Stage = "native" if target is None else "target"
        self._step = probe_step(whole.manifest)
        self._inputs = step_inputs(whole, spec, target, at_zero=job.kind == "target_at_zero")
        self._taps = {
            name: self._backend.upload(array)
            for name, array in self._inputs.items()
            if name.startswith(TAP_PREFIX)
        }

    def run(self, repeats: int) -> None:
        """A stage of the same step over and over, until its last latent is on the host."""
        watch = Stopwatch()
        result = self._backend.stage_loop().run(self._program(repeats, watch))
        self._backend.download(result.final)
        self.seconds = watch.seconds(repeats, at_once=self._on_host)
        self.device_seconds = result.step_seconds

    def results(self) -> Arrays:
        """The next latent and the prediction, as float32."""
        values = self._runner.run({**self._inputs, **self._taps})
        return {
            name: np.array(self._backend.download(values[name]), np.float32)
            for name in (contract.NEXT_LATENT, contract.PREDICTION)
        }

    def close(self) -> None:
        """Free the engine; TensorRT for RTX keeps the kernels it compiled."""
        self._runner.close()
        self._backend.close()

    def _program(self, steps: int, watch: Stopwatch) -> StageProgram:
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
            observer=watch,
            attention=StoredAttention([self._taps] * steps) if self._taps else None,
        )


def step_graph(job: WorkerJob) -> tuple[Bundle, str, Target | None]:
    """The bundle with the graph of a step, the graph's name, and the target whose step it is."""
    bundle = Bundle.open(job.bundle, verify="size")
    native = job.kind in NATIVE_STEPS
    target = None if native else bundle.manifest.target_for_scale(job.scale)
    if job.kind in WEIGHTS_LEFT_OUT:
        own = ablated_graph(bundle.manifest, job.kind, job.scale)
        return ablated_bundle(bundle, Path(job.ablated)), own.name, target
    return bundle, NATIVE_GRAPH if target is None else target.step, target
