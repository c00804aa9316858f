"""Is the exported graph the module? Compared on random inputs before anything is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fam_export.graph_definition import GraphDefinition, concrete_shape
from fam_export.probe import probe_inputs
from fam_runtime.errors import ParityError

RELATIVE_TOLERANCE_FP32 = 1e-4
"""Largest error over the largest value. Two correct fp32 implementations of a UNet differ by some
1e-6 to 1e-5 through the order of summation; a wrong graph differs by 1e-1 and more."""

PROBE_SEED = 20411
CHECK_THREADS = 1
"""One thread sums in one order, so that the figures in the manifest repeat."""


@dataclass(frozen=True)
class Parity:
    """Figures of one graph over all probes.

    Attributes:
        max_relative_error: largest absolute error over the largest absolute value, per output,
            the worst of them.
        probes: how many inputs were compared.
    """

    max_relative_error: float
    probes: int

    def as_json(self) -> dict[str, Any]:
        """For the manifest: two significant digits, the tolerance beside the figure."""
        return {
            "max_relative_error": float(f"{self.max_relative_error:.1e}"),
            "tolerance": RELATIVE_TOLERANCE_FP32,
            "probes": self.probes,
            "reference": "pytorch",
            "runtime": "onnxruntime-cpu",
        }


def check_parity(definition: GraphDefinition, graph: Path, weights: Path) -> Parity:
    """Run `graph` in ONNX Runtime on a CPU beside the module, at every size of the definition.

    Args:
        definition: the module and its interface.
        graph: the exported file.
        weights: directory of the external data that the graph refers to.

    Raises:
        ParityError: an output differs by more than :data:`RELATIVE_TOLERANCE_FP32`, has another
            shape or is not finite.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = CHECK_THREADS
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights)
    )
    session = ort.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for index, sizes in enumerate(definition.check_sizes):
        inputs = probe_inputs(definition, sizes, seed=PROBE_SEED + index)
        expected = definition.run(inputs)
        names = [spec.name for spec in definition.outputs]
        feeds = {name: value.numpy() for name, value in inputs.items()}
        got = dict(zip(names, session.run(names, feeds), strict=True))
        for spec in definition.outputs:
            wanted_shape = concrete_shape(spec, sizes)
            if got[spec.name].shape != wanted_shape:
                raise ParityError(
                    f"{definition.file}: output {spec.name} has a wrong shape",
                    got=got[spec.name].shape,
                    expected=str(wanted_shape),
                    fix="this is a defect of the exporter; please report it",
                )
        worst = max(worst, _largest_relative_error(definition.file, got, expected))
    return Parity(worst, len(definition.check_sizes))


def _largest_relative_error(
    file: str, got: Mapping[str, np.ndarray], expected: Mapping[str, torch.Tensor]
) -> float:
    worst = 0.0
    for name, reference in expected.items():
        wanted = reference.to(torch.float32).numpy()
        error = float(np.abs(got[name].astype(np.float32) - wanted).max())
        relative = error / max(float(np.abs(wanted).max()), 1e-12)
        # `not <=` rather than `>`: NaN must fail.
        if not relative <= RELATIVE_TOLERANCE_FP32:
            raise ParityError(
                f"{file}: output {name} is not what the PyTorch module computes",
                got=f"relative error {relative:.1e}",
                expected=f"at most {RELATIVE_TOLERANCE_FP32:.0e}",
                fix="nothing was published; check the checkpoint for NaN, or report this",
            )
        worst = max(worst, relative)
    return worst
