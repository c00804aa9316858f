"""The plain target step of a bundle: the same UNet at the same size, without FM, AM and taps.

It is made from the target's own graph, so that it needs neither the checkpoint nor diffusers: FM
and AM are each an addition of something times their weight (``z + w·(…)``, ``own + λ·(…)``), which
is left out, with all that only it needed.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime import contract
from fam_runtime.bundle import Bundle, FileRecord, GraphSpec, Target
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    import onnx

INDEX = "plain.json"
STRENGTHS = (contract.FM_WEIGHT, contract.AM_STRENGTH)


def plain_name(target: Target) -> str:
    """Name of the plain graph beside the target's own."""
    return f"{posixpath.dirname(target.step)}/plain-{target.size}.onnx"


def write_plain_steps(bundle: Bundle, targets: Iterable[Target], folder: Path) -> None:
    """Write the plain steps of `targets`, and their weights, for :func:`plain_bundle`.

    Args:
        bundle: the bundle with the targets.
        targets: whose plain steps are made.
        folder: is made.

    Raises:
        BackendError: the graph is not one of this exporter's.
        ImportError: onnx is missing.
    """
    import onnx

    index = {}
    for target in targets:
        name = plain_name(target)
        model = plain_model(onnx.load(bundle.path(target.step), load_external_data=False))
        data = model.SerializeToString(deterministic=True)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        index[name] = {
            "of": target.step,
            "inputs": [value.name for value in model.graph.input],
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for location in {tensor.location for tensor in bundle.external_data(target.step)}:
            weights = f"{posixpath.dirname(name)}/{location}"
            if not (folder / weights).exists():  # a link is refused by the bundle's reader
                shutil.copyfile(bundle.path(weights), folder / weights)
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def plain_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """`bundle` with its plain steps in the manifest; only these can be opened.

    Args:
        bundle: the bundle with the targets.
        folder: where :func:`write_plain_steps` wrote.
    """
    graphs, files = dict(bundle.manifest.graphs), dict(bundle.manifest.files)
    for name, own in json.loads((folder / INDEX).read_text(encoding="utf-8")).items():
        spec = graphs[own["of"]]
        inputs = tuple(value for value in spec.inputs if value.name in own["inputs"])
        graphs[name] = GraphSpec(inputs, spec.outputs)
        files[name] = FileRecord(own["bytes"], own["sha256"])
    return Bundle(folder, replace(bundle.manifest, graphs=graphs, files=files), bundle.hash)


def plain_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, a target step, with FM and AM left out; it is changed in place.

    Raises:
        BackendError: a weight of FM or AM acts in another way than by one product and one sum.
    """
    graph = model.graph
    weights, vanishing, same = set(STRENGTHS), set[str](), dict[str, str]()
    for node in graph.node:
        if weights.isdisjoint(node.input) and vanishing.isdisjoint(node.input):
            continue
        if node.op_type == "Cast" and node.input[0] in weights:
            weights.add(node.output[0])
        elif node.op_type == "Mul" and len(weights.intersection(node.input)) == 1:
            vanishing.add(node.output[0])
        elif node.op_type == "Add" and len(vanishing.intersection(node.input)) == 1:
            (rest,) = (name for name in node.input if name not in vanishing)
            same[node.output[0]] = same.get(rest, rest)
        else:
            raise _unknown(f"{node.op_type} {node.name}")
    if not same:
        raise _unknown("no sum with FM or AM in it")
    _redirect(graph, same)
    _remove_unused(graph)
    return model


def _redirect(graph: Any, same: dict[str, str]) -> None:
    """Let whoever reads a value read the one that it equals."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in same:
                # Sums follow each other: FM's is read by the UNet before AM's are known.
                while name in same:
                    name = same[name]
                node.input[index] = name


def _remove_unused(graph: Any) -> None:
    """Remove nodes, weights and inputs that no output needs."""
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):  # they are in order
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    nodes = list(reversed(kept))
    for field, items in (
        (graph.node, nodes),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.input, [value for value in graph.input if value.name in needed]),
        (graph.value_info, []),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del field[:]
        field.extend(copies)


def _unknown(got: str) -> BackendError:
    return BackendError(
        "the target step cannot be told apart from FM and AM",
        got=got,
        expected="their weights in one product and one sum each",
        fix="export the bundle with this version of fam-export",
    )
