"""One graph to check: what it was made from, and where it lies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch

from fam_export.checkpoint import Checkpoint
from fam_export.graph_factory import GraphFactory, GraphName
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_export.parity.check import CHECK_THREADS, Parity, check_loads, check_parity
from fam_export.parity.twin import check_same_graph
from fam_export.shared_weights import read_weight_table, refer_to_shared_weights


@dataclass(frozen=True)
class GraphCheck:
    """A comparison to make; it can be sent to another process.

    Attributes:
        checkpoint, options, graph: what was exported.
        file: the exported graph.
        weights: directory of the external data that it refers to.
        twin: compare at a tiny latent.
    """

    checkpoint: Checkpoint
    options: ExportOptions
    graph: GraphName
    file: Path
    weights: Path
    twin: bool = False


def run_check(check: GraphCheck) -> Parity:
    """Compare the graph with its module.

    Raises:
        ParityError: it does not compute what its module computes.
    """
    reference = GraphFactory(check.checkpoint, check.options, reference=True)
    dtype = "fp32" if check.graph.part == "vae" else check.options.dtype
    model = ir.load(check.file)
    with tempfile.TemporaryDirectory(prefix="fam-check-") as scratch, _one_thread():
        if not check.twin:
            definition = reference.definition(check.graph)
            return check_parity(definition, model, dtype, check.weights, Path(scratch))
        exported = GraphFactory(check.checkpoint, check.options).twin(check.graph)
        twin = traced_graph(exported).model
        if check.graph.part == "unet":
            table = read_weight_table(check.weights)
            refer_to_shared_weights(twin, table, exported.file)
        twin = ir.from_proto(ir.to_proto(twin))  # a file holds floats of 32 bits
        check_same_graph(exported.file, model, twin)
        check_loads(exported.file, model, check.weights, Path(scratch))
        definition = reference.twin(check.graph)
        parity = check_parity(definition, twin, dtype, check.weights, Path(scratch))
        height, width = definition.inputs[0].shape[2:]
        return replace(parity, twin=f"{height}x{width}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """The figures of the check go into the manifest, and one thread makes them repeat."""
    threads = torch.get_num_threads()
    torch.set_num_threads(CHECK_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
