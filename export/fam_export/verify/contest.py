"""A backend beside PyTorch: every graph, every step from PyTorch's latent, and a run of its own.

Steps are **teacher-forced**: after each one the latent is replaced by PyTorch's, so every step
starts from the same latent, and an error is found in the step that makes it. What else a step is
fed comes from the contestant's own graphs: embeddings, the upsampled latent, native attention. They
too are made from PyTorch's latents (native attention is computed from the latents that the native
stage began its steps with, stored or replayed, and these are the replaced ones), so each is one
graph away from PyTorch, never a trajectory. A multistep sampler's previous prediction is the
contestant's own, one step old.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fam_export.verify.choice import BackendChoice
from fam_export.verify.figures import Array, check_numbers, picture_figures, tensor_figures
from fam_export.verify.reference import GraphSample, ReferenceRun, Task
from fam_export.verify.report import Comparison, ContestantReport, title_of
from fam_export.verify.tolerances import Arithmetic, arithmetic_of
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import BackendError, InvalidRequest, NumericError, StorageError
from fam_runtime.pipeline import FamPipeline
from fam_runtime.progress import Progress

CANNOT_RUN = (BackendError, InvalidRequest, StorageError)
"""No library or GPU, an option of somewhere else, no room for an engine."""


class Contest:
    """The comparisons of one backend.

    Args:
        choice: the backend.
        bundle: the graphs.
        task: what PyTorch did.
        progress: told about stages.
    """

    def __init__(
        self, choice: BackendChoice, bundle: Bundle, task: Task, progress: Progress
    ) -> None:
        self.bundle, self.task, self.label = bundle, task, choice.label
        self.progress = ProgressOf(choice.label, progress)
        self.report = ContestantReport(choice)

    def can_open(self) -> bool:
        """Whether the backend opens and takes the bundle; if not, the report says why."""
        try:
            self._pipeline().close()
        except CANNOT_RUN as error:
            self.report.stopped = error
        return self.report.stopped is None

    def run(self, references: Sequence[ReferenceRun]) -> None:
        """Compare with every reference, up to the first NaN or failure of the library."""
        try:
            with self._pipeline() as pipeline:
                self.report.described = pipeline.backend.describe()
                self._compare_graphs(pipeline, references)
                for reference in references:
                    self._compare_steps(pipeline, reference)
                    self._compare_own_run(pipeline, reference)
        except (*CANNOT_RUN, NumericError) as error:
            self.report.stopped = error

    def _pipeline(self) -> FamPipeline:
        backend = self.report.choice.open()
        try:
            return FamPipeline(self.bundle, backend, progress=self.progress)
        except BaseException:
            backend.close()
            raise

    def _arithmetic(self, graph: str) -> Arithmetic:
        manifest = self.bundle.manifest
        return arithmetic_of(manifest.dtype_of(graph), manifest.model.dtype, self.report.described)

    def _compare_graphs(self, pipeline: FamPipeline, references: Sequence[ReferenceRun]) -> None:
        """Everything but the steps, on the inputs that PyTorch had."""
        samples: dict[str, list[GraphSample]] = {}
        for reference in references:
            for sample in reference.samples:
                samples.setdefault(sample.graph, []).append(sample)
        self.progress.start("graphs", len(samples))
        for graph, of_graph in samples.items():
            with pipeline.backend.load(self.bundle, graph) as runner:
                for sample in of_graph:
                    values = runner.run(
                        {name: pipeline.backend.upload(a) for name, a in sample.feeds.items()}
                    )
                    for name, wanted in sample.outputs.items():
                        got = pipeline.backend.download(values[name])
                        self._compare_output(graph, name, got, wanted)
            self.progress.advance()

    def _compare_output(self, graph: str, name: str, got: Array, wanted: Array) -> None:
        what = f"{graph} {name}"
        check_numbers(self.label, what, got)
        figures = tensor_figures(got, wanted)
        comparison = Comparison("graph", what, self._arithmetic(graph), figures)
        self.report.comparisons.append(comparison)

    def _compare_steps(self, pipeline: FamPipeline, reference: ReferenceRun) -> None:
        size, arithmetic = str(reference.target.size), self._arithmetic(NATIVE_GRAPH)

        def compare(_: FamPipeline, index: int, __: float, state: dict[str, Any]) -> dict[str, Any]:
            got, what = state["latents"], f"{state['stage']} stage"
            step = reference.steps[state["stage"]][index]
            check_numbers(self.label, title_of(size, what, index), got)
            figures = tensor_figures(got, step.after, scale=step.change)
            comparison = Comparison("step", what, arithmetic, figures, size, index)
            self.report.comparisons.append(comparison)
            return {"latents": step.after}

        self.task.run(pipeline, reference.target, compare, decode=False)

    def _compare_own_run(self, pipeline: FamPipeline, reference: ReferenceRun) -> None:
        """As users run it: nobody looks at steps, so a GPU may do all of a stage in one piece."""
        size, arithmetic = str(reference.target.size), self._arithmetic(NATIVE_GRAPH)
        try:
            output = self.task.run(pipeline, reference.target)
        except NumericError as error:
            raise NumericError(
                f"{self.label}: {title_of(size, 'own run')}: {error.what}",
                got=error.got,
                expected=error.expected,
                fix=error.fix,
            ) from error
        finals = {"native": output.native_latents, "target": output.latents}
        for stage, steps in reference.steps.items():
            figures = tensor_figures(np.asarray(finals[stage]), steps[-1].after)
            what = f"own run, {stage} latent"
            self.report.comparisons.append(Comparison("final", what, arithmetic, figures, size))
        figures = picture_figures(np.asarray(output.images[0]), reference.picture)
        what = "own run, picture"
        self.report.comparisons.append(Comparison("picture", what, arithmetic, figures, size))


class ProgressOf:
    """The progress of one backend: its name stands before each stage's.

    It says that nobody looks: a run that no callback watches is to be what users get from a GPU.

    Args:
        label: the name.
        progress: told about the stages.
    """

    visible = False

    def __init__(self, label: str, progress: Progress) -> None:
        self._label, self._progress = label, progress

    def start(self, stage: str, total: int) -> None:
        """A stage begins."""
        self._progress.start(f"{self._label}: {stage}", total)

    def advance(self) -> None:
        """A step is done."""
        self._progress.advance()

    def close(self) -> None:
        """Nothing more will come for now."""
        self._progress.close()
