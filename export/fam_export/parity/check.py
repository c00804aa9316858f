"""An exported graph in ONNX Runtime beside its module in PyTorch, on the same random inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from fam_export.deferred import data_on_demand
from fam_export.graph_definition import GraphDefinition, concrete_shape
from fam_export.parity.widened import widen
from fam_export.probe import probe_inputs
from fam_runtime.bundle import ModelDtype
from fam_runtime.errors import ParityError

if TYPE_CHECKING:
    import onnxruntime as ort

RELATIVE_TOLERANCE_FP32 = 1e-4
"""Largest error over the largest value. Two correct fp32 implementations of a UNet differ by some
1e-6 to 1e-5 through the order of summation; a wrong graph differs by 1e-1 and more."""

RELATIVE_TOLERANCES: Mapping[ModelDtype, float] = {
    "fp32": RELATIVE_TOLERANCE_FP32,
    "fp16": 1e-3,
    "bf16": 1e-2,
}
"""Widened graphs hold the scalars of the tracer as half precision rounded them: CLIP's 1.702 is off
by 2^-13 of itself in fp16, others by up to 2^-12 and in bf16 2^-9. A wrong graph is still a hundred
times further off."""

RELATIVE_TOLERANCE_ROUNDED = 5e-2
"""For a graph of fp16 as it is, which rounds to 11 bits between its operators, against fp32: a UNet
gathers some 1e-3 to 1e-2. This comparison is for overflow; the others are for the graph."""

PROBE_SEED = 20411
NO_KERNEL = "NOT_IMPLEMENTED"
CHECK_THREADS = 1
"""One thread sums in one order, so that the figures in the manifest repeat."""


@dataclass(frozen=True)
class Parity:
    """Figures of one graph over all probes.

    Attributes:
        max_relative_error: largest absolute error over the largest absolute value, per output,
            the worst of them; both sides in fp32.
        tolerance: what it may be.
        probes: how many inputs were compared.
        fp16_relative_error: the same for the graph as it is, if it is of fp16.
        twin: the sizes it was compared at, if not its own: ``"8x8"`` latent samples.
    """

    max_relative_error: float
    tolerance: float
    probes: int
    fp16_relative_error: float | None = None
    twin: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For the manifest: two significant digits, the tolerance beside the figure."""
        document: dict[str, Any] = {
            "max_relative_error": float(f"{self.max_relative_error:.1e}"),
            "tolerance": self.tolerance,
            "probes": self.probes,
            "reference": "pytorch",
            "runtime": "onnxruntime-cpu",
        }
        if self.fp16_relative_error is not None:
            document["fp16_relative_error"] = float(f"{self.fp16_relative_error:.1e}")
            document["fp16_tolerance"] = RELATIVE_TOLERANCE_ROUNDED
        if self.twin is not None:
            document["twin_latent"] = self.twin
        return document


def check_parity(
    reference: GraphDefinition, model: ir.Model, dtype: ModelDtype, weights: Path, scratch: Path
) -> Parity:
    """Compare at every size of the definition.

    Args:
        reference: the module, computing in fp32, and the interface in fp32.
        model: the exported graph; widened here.
        dtype: its precision.
        weights: directory of the external data that the graph refers to.
        scratch: an existing directory for the graph that is run.

    Raises:
        ParityError: an output differs by more than the tolerance, has another shape or is not
            finite.
    """
    probes = [
        probe_inputs(reference, sizes, seed=PROBE_SEED + index)
        for index, sizes in enumerate(reference.check_sizes)
    ]
    with data_on_demand(reference.module, torch.float32):
        expected = [reference.run(inputs) for inputs in probes]
    check_loads(reference.file, model, weights, scratch)
    rounded_error = None
    if dtype == "fp16" and holds_fp16(model):
        got = _outputs(model, reference, weights, scratch, probes[:1])
        rounded_error = _worst_error(reference, got, expected[:1], RELATIVE_TOLERANCE_ROUNDED)
    widen(model)
    got = _outputs(model, reference, weights, scratch, probes)
    tolerance = RELATIVE_TOLERANCES[dtype]
    worst = _worst_error(reference, got, expected, tolerance)
    return Parity(worst, tolerance, len(probes), rounded_error)


def holds_fp16(model: ir.Model) -> bool:
    """Whether a weight is fp16; the VAE's are not in any bundle."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return any(t is not None and t.dtype == ir.DataType.FLOAT16 for t in tensors)


def check_loads(file: str, model: ir.Model, weights: Path, scratch: Path) -> None:
    """Check that ONNX Runtime takes a graph as it is: types and shapes fit, node by node.

    Raises:
        ParityError: it does not.
    """
    try:
        _session(model, weights, scratch)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        if NO_KERNEL in str(error):
            return  # of bf16 on a CPU; types and shapes are checked before that is found out
        raise ParityError(
            f"{file} is not a valid graph",
            got=" ".join(str(error).split())[:500],
            expected="a graph that ONNX Runtime loads",
            fix="this is a defect of the exporter; please report it",
        ) from error


def _outputs(
    model: ir.Model,
    reference: GraphDefinition,
    weights: Path,
    scratch: Path,
    probes: list[dict[str, torch.Tensor]],
) -> list[dict[str, np.ndarray]]:
    """What ONNX Runtime computes; the session is gone when this returns."""
    session = _session(model, weights, scratch)
    dtypes = {item.name: item.type for item in session.get_inputs()}
    names = [spec.name for spec in reference.outputs]
    results = []
    for inputs in probes:
        feeds = {
            name: values.to(torch.float16 if dtypes[name] == "tensor(float16)" else values.dtype)
            for name, values in inputs.items()
        }
        arrays = session.run(names, {name: values.numpy() for name, values in feeds.items()})
        results.append(dict(zip(names, arrays, strict=True)))
    return results


def _session(model: ir.Model, weights: Path, scratch: Path) -> ort.InferenceSession:
    """A session over memory-mapped weights."""
    import onnxruntime as ort

    graph = scratch / "graph.onnx"
    graph.write_bytes(ir.to_proto(model).SerializeToString())
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = CHECK_THREADS
    options.enable_cpu_mem_arena = False
    # Optimised, ONNX Runtime holds weights a second time (converted, or in another layout), and
    # converts all of them before the first is used: 5.4 GB for the 1.7 GB of SD 1.5, not 2.2.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights)
    )
    return ort.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])


def _worst_error(
    reference: GraphDefinition,
    got: list[dict[str, np.ndarray]],
    expected: list[dict[str, torch.Tensor]],
    tolerance: float,
) -> float:
    worst = 0.0
    for sizes, ours, theirs in zip(reference.check_sizes, got, expected, strict=False):
        for spec in reference.outputs:
            wanted_shape = concrete_shape(spec, sizes)
            if ours[spec.name].shape != wanted_shape:
                raise ParityError(
                    f"{reference.file}: output {spec.name} has a wrong shape",
                    got=ours[spec.name].shape,
                    expected=str(wanted_shape),
                    fix="this is a defect of the exporter; please report it",
                )
        worst = max(worst, _largest_relative_error(reference.file, ours, theirs, tolerance))
    return worst


_FIX = (
    "nothing was published; check the checkpoint for NaN, try --dtype fp32 if this is another "
    "one, or report this"
)
_FIX_OVERFLOW = (
    "nothing was published; float16 overflows above 65504, in this checkpoint: export with "
    "--dtype bf16 or fp32, or use a checkpoint that was made for fp16"
)


def _largest_relative_error(
    file: str,
    got: Mapping[str, np.ndarray],
    expected: Mapping[str, torch.Tensor],
    tolerance: float,
) -> float:
    worst = 0.0
    for name, reference in expected.items():
        wanted = reference.to(torch.float32).numpy()
        error = float(np.abs(got[name].astype(np.float32) - wanted).max())
        relative = error / max(float(np.abs(wanted).max()), 1e-12)
        # `not <=` rather than `>`: NaN must fail.
        if not relative <= tolerance:
            raise ParityError(
                f"{file}: output {name} is not what the PyTorch module computes",
                got=f"relative error {relative:.1e}",
                expected=f"at most {tolerance:.0e}",
                fix=_FIX_OVERFLOW
                if tolerance == RELATIVE_TOLERANCE_ROUNDED and not np.isfinite(error)
                else _FIX,
            )
        worst = max(worst, relative)
    return worst
