"""What PyTorch makes of a bundle's modules: every step, every other graph, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from fam_export.checkpoint import Checkpoint
from fam_export.verify.torch_backend import TorchBackend, array_of
from fam_graph.frequency_modulation import modulate_frequencies
from fam_runtime import contract
from fam_runtime.backends.base import Array, Values
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, Manifest, Target
from fam_runtime.callback import CallbackOnStepEnd
from fam_runtime.contract import StepCoefficient
from fam_runtime.pipeline import FamPipeline
from fam_runtime.pipeline_output import FamPipelineOutput
from fam_runtime.progress import Progress
from fam_runtime.stage_program import Stage

Float32Array = npt.NDArray[np.float32]

PROMPT = "a red circle on a white background"
"""In the demo's words; for other checkpoints it is as good as any."""

SEED = 0

SAMPLES_PER_GRAPH = 2
"""The text encoders run for the prompt and for the empty one; of a VAE in tiles two are enough."""

ENCODER_PIXELS = 512
"""No encoder takes a picture of 4096 x 4096 in one piece."""


MODULATION_INPUTS = (
    contract.STEP_COEFFICIENTS,
    contract.REFERENCE_LATENT,
    contract.REFERENCE_NOISE,
    contract.FM_KERNEL_ROWS,
    contract.FM_KERNEL_COLUMNS,
    contract.FM_WEIGHT,
)
"""What FM is fed besides the latent; a native step has only the first."""


@dataclass(frozen=True)
class Task:
    """What everybody does; everything else is the bundle's default.

    Attributes:
        steps: of each stage.
        prompt, seed: of the picture.
    """

    steps: int
    prompt: str = PROMPT
    seed: int = SEED

    def run(
        self,
        pipeline: FamPipeline,
        target: Target,
        callback: CallbackOnStepEnd | None = None,
        *,
        decode: bool = True,
    ) -> FamPipelineOutput:
        """Make the picture of `target`, and its native one, as arrays; or only the latent.

        Native attention is replayed: its queries and keys are computed from the native latents of
        the same run, in memory that does not grow with the steps.
        """
        return pipeline(
            self.prompt,
            height=target.height,
            width=target.width,
            num_inference_steps=self.steps,
            seed=self.seed,
            native_attention="replay",
            output_type="np" if decode else "latent",
            return_native=decode,
            callback_on_step_end=callback,
        )


@dataclass(frozen=True, eq=False)
class StepRecord:
    """A step of PyTorch.

    Attributes:
        after: the latent that it ends with, float32 ``[1, 4, h, w]``.
        change: what the UNet and the sampler did to the latent, after FM; like `after`.
    """

    after: Float32Array
    change: Float32Array


@dataclass(frozen=True, eq=False)
class GraphSample:
    """Feeds and outputs of a graph that is no step."""

    graph: str
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(eq=False)
class ReferenceRun:
    """A picture's making in PyTorch.

    Attributes:
        target: its size.
        steps: per stage.
        samples: runs of the other graphs.
        picture: float32 ``[height, width, 3]`` in [0, 1].
    """

    target: Target
    steps: dict[Stage, list[StepRecord]] = field(
        default_factory=lambda: {"native": [], "target": []}
    )
    samples: list[GraphSample] = field(default_factory=list)
    picture: Float32Array = field(default_factory=lambda: np.empty((0, 0, 3), np.float32))


class Recorder:
    """Writes down what the reference computes, as its backend's ``watch``.

    Args:
        manifest: of the bundle whose graphs run.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._stages: dict[str, Stage] = {NATIVE_GRAPH: "native"}
        self._stages |= {target.step: "target" for target in manifest.targets}
        self.runs: list[ReferenceRun] = []

    def begin(self, target: Target) -> ReferenceRun:
        """What comes next belongs to the picture of `target`."""
        self.runs.append(ReferenceRun(target))
        return self.runs[-1]

    def __call__(self, graph: str, feeds: Values, outputs: Values) -> None:
        """Keep a step's latents, or all of another graph."""
        run, stage = self.runs[-1], self._stages.get(graph)
        if stage is None:
            if sum(sample.graph == graph for sample in run.samples) < SAMPLES_PER_GRAPH:
                run.samples.append(GraphSample(graph, _on_host(feeds), _on_host(outputs)))
        elif contract.NEXT_LATENT in outputs:  # a replayed native step gives taps only
            after = array_of(outputs[contract.NEXT_LATENT])
            run.steps[stage].append(StepRecord(after, after - latent_after_modulation(feeds)))


def reference_runs(
    checkpoint: Checkpoint,
    bundle: Bundle,
    targets: Sequence[Target],
    task: Task,
    progress: Progress,
) -> tuple[list[ReferenceRun], dict[str, str]]:
    """Run PyTorch, whose memory is free again afterwards.

    Returns:
        A run per target, and what ran.

    Raises:
        NumericError: the checkpoint itself gives NaN or infinity.
        BackendError: PyTorch failed, for lack of memory most likely.
    """
    recorder = Recorder(bundle.manifest)
    backend = TorchBackend(checkpoint, bundle.manifest, watch=recorder)
    with FamPipeline(bundle, backend, progress=progress) as pipeline:
        for target in targets:
            run = recorder.begin(target)
            run.picture = np.asarray(task.run(pipeline, target).images[0])
            # No pipeline runs the VAE's encoder yet, and every graph of a bundle is compared.
            with backend.load(bundle, bundle.manifest.vae.encoder) as encoder:
                encoder.run({contract.IMAGE: image_for_encoder(run.picture)})
    return recorder.runs, backend.describe()


def latent_after_modulation(feeds: Values) -> Float32Array:
    """The latent that the UNet of a step is given: after FM (Eq. 5), which native steps have not.

    FM pulls the latent to the reference by much more than a late step changes it, and errors of
    the UNet would vanish beside that.
    """
    inputs = {
        name: torch.from_numpy(np.array(array_of(feeds[name])))
        for name in (contract.LATENT, *MODULATION_INPUTS)
        if name in feeds
    }
    latent = inputs[contract.LATENT]
    if contract.REFERENCE_LATENT in inputs:
        c = inputs[contract.STEP_COEFFICIENTS]
        reference = (
            c[StepCoefficient.REFERENCE_SIGNAL] * inputs[contract.REFERENCE_LATENT]
            + c[StepCoefficient.REFERENCE_NOISE] * inputs[contract.REFERENCE_NOISE]
        )
        latent = modulate_frequencies(
            latent,
            reference,
            inputs[contract.FM_KERNEL_ROWS],
            inputs[contract.FM_KERNEL_COLUMNS],
            inputs[contract.FM_WEIGHT],
        )
    return latent.numpy()


def image_for_encoder(picture: Float32Array) -> Float32Array:
    """A corner of `picture` as the encoder takes it: float32 ``[1, 3, height, width]``, -1 to 1."""
    corner = picture[:ENCODER_PIXELS, :ENCODER_PIXELS].transpose(2, 0, 1)[np.newaxis]
    return np.ascontiguousarray(corner * np.float32(2) - np.float32(1))


def _on_host(values: Values) -> dict[str, Array]:
    return {name: array_of(value) for name, value in values.items()}
