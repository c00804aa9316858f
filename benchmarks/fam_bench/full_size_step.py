"""One step of a bundle of any size in ONNX Runtime, beside its PyTorch module in fp32.

Both have the same weights and inputs and run one after the other, each in a process of its own: the
runtime as on a machine with little memory, the module with its weights read layer by layer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fam_bench.process_memory import peak_memory_bytes
from fam_runtime.errors import BackendError

StepKind = Literal["native", "target"]
Weights = Literal["mapped", "packed"]
PROBE_SEED = 0
INPUTS, EXPECTED = "inputs.npz", "expected.npz"


@dataclass(frozen=True)
class StepJob:
    """A step to compare.

    Attributes:
        bundle: what is measured.
        model, config: the checkpoint it was made from.
        kind: which step.
        scale: of the target.
        folder: for tensors that pass between the processes.
    """

    bundle: str
    model: str
    config: str | None
    kind: StepKind
    scale: float
    folder: str


@dataclass(frozen=True)
class StepSide:
    """What one of the two took: seconds to load and for the step, and peak memory."""

    name: str
    load_seconds: float
    step_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class StepResult:
    """The comparison.

    Attributes:
        sides: PyTorch, then the runtime.
        errors: largest absolute difference over the largest absolute value, per output.
        rms_errors: the same with root mean squares.
    """

    sides: tuple[StepSide, StepSide]
    errors: Mapping[str, float]
    rms_errors: Mapping[str, float]


def compare_step(job: StepJob, weights: Weights = "mapped") -> StepResult:
    """Run both sides.

    Args:
        job: what to compare.
        weights: how the runtime holds them; mapped is its low-memory mode.

    Raises:
        BackendError: a side failed, most likely for want of memory.
    """
    torch_side = StepSide(**_apart("torch", job)["side"])
    runtime = _apart(weights, job)
    return StepResult(
        (torch_side, StepSide(**runtime["side"])), runtime["errors"], runtime["rms_errors"]
    )


def run_torch(job: StepJob) -> StepSide:
    """Draw the inputs, compute with the PyTorch module, and leave both in the folder."""
    import torch

    from fam_export.checkpoint import open_checkpoint
    from fam_export.deferred import data_on_demand
    from fam_export.graph_factory import GraphFactory, GraphName
    from fam_export.probe import probe_inputs
    from fam_export.verify.torch_backend import options_of
    from fam_runtime.bundle import Bundle

    begun = time.perf_counter()
    manifest = Bundle.open(job.bundle, verify="size").manifest
    config = None if job.config is None else Path(job.config)
    dtype = manifest.model.dtype
    prefer: Literal["fp16", "fp32"] = "fp16" if dtype == "fp16" else "fp32"
    checkpoint = open_checkpoint(job.model, config=config, prefer=prefer)
    options = options_of(manifest)
    target = manifest.target_for_scale(job.scale) if job.kind == "target" else None
    name = GraphName(job.kind, target)
    exported = GraphFactory(checkpoint, options).definition(name)
    inputs = probe_inputs(exported, {"B": 1}, seed=PROBE_SEED)
    save_arrays(Path(job.folder) / INPUTS, {n: v.numpy() for n, v in inputs.items()})
    reference = GraphFactory(checkpoint, options, reference=True).definition(name)
    # The taps as the graph gets them, rounded to its precision, in the type of the reference.
    wide = {n: v.float() if v.is_floating_point() else v for n, v in inputs.items()}
    loaded = time.perf_counter()
    with data_on_demand(reference.module, torch.float32):
        outputs = reference.run(wide)
    done = time.perf_counter()
    save_arrays(Path(job.folder) / EXPECTED, {n: v.numpy() for n, v in outputs.items()})
    return StepSide("PyTorch, fp32", loaded - begun, done - loaded, peak_memory_bytes())


def run_runtime(job: StepJob, weights: Weights) -> dict[str, Any]:
    """Compute with the runtime's backend on the inputs in the folder, and compare."""
    from fam_runtime.backends.onnxruntime import OnnxruntimeBackend
    from fam_runtime.bundle import NATIVE_GRAPH, Bundle

    bundle = Bundle.open(job.bundle, verify="size")
    target = bundle.manifest.target_for_scale(job.scale).step
    with np.load(Path(job.folder) / INPUTS) as archive:
        feeds = dict(archive)
    begun = time.perf_counter()
    backend = OnnxruntimeBackend(low_memory=weights == "mapped")
    with backend.load(bundle, NATIVE_GRAPH if job.kind == "native" else target) as runner:
        loaded = time.perf_counter()
        outputs = runner.run(feeds)
        done = time.perf_counter()
    peak = peak_memory_bytes()
    side = StepSide(
        f"ONNX Runtime, {bundle.manifest.model.dtype}, weights {weights}",
        loaded - begun,
        done - loaded,
        peak,
    )
    errors, rms_errors = {}, {}
    with np.load(Path(job.folder) / EXPECTED) as archive:
        for name in archive:
            errors[name], rms_errors[name] = relative_errors(
                np.asarray(outputs[name]), archive[name]
            )
    return {"side": asdict(side), "errors": errors, "rms_errors": rms_errors}


def relative_errors(got: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Largest difference over the largest value, and the ratio of the root mean squares.

    NaN and infinity anywhere give NaN or infinity.
    """
    wanted = expected.astype(np.float32)
    difference = got.astype(np.float32) - wanted
    largest = float(np.abs(difference).max() / max(np.abs(wanted).max(), 1e-12))
    squares = [
        float(np.sqrt(np.mean(np.square(v, dtype=np.float64)))) for v in (difference, wanted)
    ]
    return largest, squares[0] / max(squares[1], 1e-12)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, uncompressed."""
    named: dict[str, Any] = dict(arrays)
    np.savez(path, allow_pickle=False, **named)


def _apart(side: str, job: StepJob) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-m", "fam_bench.full_size_step", side, json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BackendError(
            f"the {job.kind} step ({side}) stopped",
            got=f"exit status {done.returncode}",
            expected="outputs",
            fix="give it more memory (a status of -9 means that there was none left)",
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Body of the process of one side: its name and the job as JSON are the arguments."""
    side, text = sys.argv[1:]
    job = StepJob(**json.loads(text))
    if side == "torch":
        result: dict[str, Any] = {"side": asdict(run_torch(job))}
    else:
        result = run_runtime(job, "packed" if side == "packed" else "mapped")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
