"""PyTorch behind the runtime's interface: the modules that were exported, eager or compiled.

diffusers' modules with fused attention, in the bundle's precision, driven by the same pipeline with
the same noise as every other contestant; on a GPU, what changes from step to step lies there before
the first, as the runtime's own buffers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fam_bench.latency.ablated_graphs import AblatedGraph, ablated_graphs
from fam_bench.latency.feeds import TAP_PREFIX
from fam_bench.latency.libraries.backends import uses_tf32
from fam_bench.latency.units import WorkerJob
from fam_export import definitions
from fam_export.checkpoint import open_checkpoint
from fam_export.verify.torch_backend import (
    TorchBackend,
    TorchPlace,
    TorchRunner,
    materialise,
)
from fam_graph.step import NativeStep, TargetStep
from fam_runtime import contract
from fam_runtime.backends.base import Runner
from fam_runtime.bundle import Bundle
from fam_runtime.stage_loop import HostStageLoop, StageLoop
from fam_runtime.stage_program import ReplayedAttention, StageProgram, StageResult, StageShape

if TYPE_CHECKING:
    from fam_export.checkpoint import Checkpoint
    from fam_export.graph_definition import GraphDefinition
    from fam_export.graph_factory import GraphFactory
    from fam_runtime.bundle import Manifest


class TorchModules(TorchBackend):
    """PyTorch.

    Args:
        checkpoint: that the bundle was exported from.
        manifest: of the bundle.
        device: ``cpu`` or ``cuda``.
        compiled: by ``torch.compile``.
    """

    def __init__(
        self, checkpoint: Checkpoint, manifest: Manifest, *, device: str, compiled: bool
    ) -> None:
        super().__init__(checkpoint, manifest, device=device, reference=False)
        self.place = LoopingPlace(torch.device(device))
        self._compiled = compiled
        self._ablated = {own.name: own for own in ablated_graphs(manifest.targets)}
        tf32 = uses_tf32(manifest)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32

    @classmethod
    def open(cls, job: WorkerJob, *, compiled: bool) -> TorchModules:
        """The one for a job."""
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        manifest = Bundle.open(job.bundle, verify="size").manifest
        return cls(open_checkpoint(job.model), manifest, device=job.device, compiled=compiled)

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """The module of `graph`, its weights read and on the device."""
        own = self._ablated.get(graph)
        whole = self.graphs.definition(self.names[graph if own is None else own.graph])
        definition = whole if own is None else ablated_definition(whole, own, self.graphs)
        materialise(definition.module, self.place.device)
        module: Any = definition.module.eval()
        if self._compiled:
            module = torch.compile(module)
        return MeasuredRunner(replace(definition, module=module), self.place)


class MeasuredRunner(TorchRunner):
    """A module that computes in the precision that PyTorch was set to."""

    def compute(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Call the module."""
        with torch.inference_mode():
            return self.definition.run(tensors)


class LoopingPlace(TorchPlace):
    """Memory of PyTorch, whose stages are driven with everything there beforehand."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, widened=False)

    def stage_loop(self) -> StageLoop:
        """The loop that uploads tables as a whole."""
        return TorchStageLoop(self)


class TorchStageLoop(StageLoop):
    """A stage whose inputs are uploaded before its first step; on a GPU it is measured there.

    Args:
        place: where the values are.
    """

    def __init__(self, place: TorchPlace) -> None:
        self._place, self._loop = place, HostStageLoop(place)

    def reserve(self, stages: Sequence[StageShape]) -> int:
        """Nothing: values come and go."""
        return 0

    def run(self, program: StageProgram) -> StageResult:
        """All steps of a stage; see :meth:`StageLoop.run`."""
        resident = self._resident(program)
        begun = self._mark()
        result = self._loop.run(resident)
        ended = self._mark()
        if begun is None:
            return result
        torch.cuda.synchronize(self._place.device)
        seconds = begun.elapsed_time(ended) / 1000 / len(program.steps)
        return replace(result, step_seconds=seconds)

    def _resident(self, program: StageProgram) -> StageProgram:
        attention = program.attention
        if isinstance(attention, ReplayedAttention):
            attention = replace(attention, program=self._resident(attention.program))
        fields = {name: getattr(program, name) for name in StageProgram.__dataclass_fields__}
        upload = self._place.upload
        for what in ("constants", "tables"):
            fields[what] = {name: upload(array) for name, array in fields[what].items()}
        latent = upload(program.first_latent)
        return ResidentProgram(**{**fields, "attention": attention, "first_latent": latent})

    def _mark(self) -> Any:
        """An event on the GPU's stream; None on the CPU."""
        if self._place.device.type == "cpu":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class ResidentProgram(StageProgram):
    """A stage whose tables are values of PyTorch."""

    def row(self, index: int) -> dict[str, Any]:
        """Views of the tables' rows."""
        return {name: type(table)(table.tensor[index]) for name, table in self.tables.items()}  # type: ignore[attr-defined]


class FrequencyModulatedStep(TargetStep):
    """A target step without AM: no layer is left that its weight, which nobody feeds, acts in."""

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One target step."""
        return super().forward({**inputs, contract.AM_STRENGTH: inputs[contract.FM_WEIGHT]})


def ablated_definition(
    whole: GraphDefinition, own: AblatedGraph, graphs: GraphFactory
) -> GraphDefinition:
    """The step `whole` with something left out, as a module without it."""
    options, facts = graphs.options, graphs.facts
    unet = graphs.module("unet")
    outputs = tuple(
        spec for spec in whole.outputs if spec.name in (contract.NEXT_LATENT, contract.PREDICTION)
    )
    if own.ablation == "without_am" and own.target is not None:
        inputs = tuple(
            spec
            for spec in whole.inputs
            if spec.name != contract.AM_STRENGTH and not spec.name.startswith(TAP_PREFIX)
        )
        grid = facts.latent_of(own.target)
        module: torch.nn.Module = FrequencyModulatedStep(
            unet, (), facts.latent_native, grid, guidance=options.guidance
        )
    else:
        grid = facts.latent_native if own.target is None else facts.latent_of(own.target)
        inputs = definitions.step_inputs(facts, grid, options)
        module = NativeStep(unet, (), guidance=options.guidance)
    return replace(whole, file=own.name, module=module, inputs=inputs, outputs=outputs)
