"""Steps of a bundle with something left out: AM, FM and AM, or the taps of the native step.

They are made from the bundle's own graphs, so that they need neither the checkpoint nor diffusers:
FM and AM are each an addition of something times their weight (``z + w·(…)``, ``own + λ·(…)``),
which is left out, with all that only it needed; taps are outputs, which are left out.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fam_runtime import contract
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, FileRecord, GraphSpec, Manifest, Target
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    import onnx

INDEX = "ablated.json"
Ablation = Literal["native_plain", "without_am", "plain"]
WEIGHTS_LEFT_OUT: dict[Ablation, tuple[str, ...]] = {
    "native_plain": (),
    "without_am": (contract.AM_STRENGTH,),
    "plain": (contract.FM_WEIGHT, contract.AM_STRENGTH),
}
"""By the kind of the step: the weights whose terms it does not have."""

KEPT_OUTPUTS = (contract.NEXT_LATENT, contract.PREDICTION)


@dataclass(frozen=True)
class AblatedGraph:
    """A step with something left out.

    Attributes:
        ablation: what.
        graph: name of the whole step's graph in the bundle.
        target: whose step it is; None for the native one.
    """

    ablation: Ablation
    graph: str
    target: Target | None

    @property
    def name(self) -> str:
        """Of its file beside the whole step's."""
        size = "" if self.target is None else f"-{self.target.size}"
        return f"{posixpath.dirname(self.graph)}/{self.ablation}{size}.onnx"


def ablated_graphs(targets: Iterable[Target]) -> list[AblatedGraph]:
    """All there are of a bundle with these targets."""
    found = [AblatedGraph("native_plain", NATIVE_GRAPH, None)]
    for target in targets:
        found += [AblatedGraph(kind, target.step, target) for kind in ("without_am", "plain")]
    return found


def ablated_graph(manifest: Manifest, ablation: Ablation, scale: float) -> AblatedGraph:
    """The one of a kind and scale.

    Raises:
        TargetNotBuilt: the bundle has no such target.
    """
    if ablation == "native_plain":
        return AblatedGraph(ablation, NATIVE_GRAPH, None)
    target = manifest.target_for_scale(scale)
    return AblatedGraph(ablation, target.step, target)


def write_ablated_graphs(bundle: Bundle, targets: Iterable[Target], folder: Path) -> None:
    """Write all of them, and their weights, for :func:`ablated_bundle`.

    Args:
        bundle: the bundle with the targets.
        targets: whose steps are made.
        folder: is made.

    Raises:
        BackendError: a graph is not one of this exporter's.
        ImportError: onnx is missing.
    """
    import onnx

    index = {}
    for own in ablated_graphs(targets):
        whole = onnx.load(bundle.path(own.graph), load_external_data=False)
        model = ablated_model(whole, own.ablation)
        data = model.SerializeToString(deterministic=True)
        path = folder / own.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        index[own.name] = {
            "of": own.graph,
            "inputs": [value.name for value in model.graph.input],
            "outputs": [value.name for value in model.graph.output],
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for location in {tensor.location for tensor in bundle.external_data(own.graph)}:
            weights = f"{posixpath.dirname(own.name)}/{location}"
            if not (folder / weights).exists():  # a link is refused by the bundle's reader
                shutil.copyfile(bundle.path(weights), folder / weights)
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def ablated_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """`bundle` with its ablated steps in the manifest; only these can be opened.

    Args:
        bundle: the bundle with the targets.
        folder: where :func:`write_ablated_graphs` wrote.
    """
    graphs, files = dict(bundle.manifest.graphs), dict(bundle.manifest.files)
    for name, own in json.loads((folder / INDEX).read_text(encoding="utf-8")).items():
        spec = graphs[own["of"]]
        graphs[name] = GraphSpec(
            tuple(value for value in spec.inputs if value.name in own["inputs"]),
            tuple(value for value in spec.outputs if value.name in own["outputs"]),
        )
        files[name] = FileRecord(own["bytes"], own["sha256"])
    return Bundle(folder, replace(bundle.manifest, graphs=graphs, files=files), bundle.hash)


def ablated_model(model: onnx.ModelProto, ablation: Ablation) -> onnx.ModelProto:
    """`model`, a whole step, with something left out; it is changed in place.

    Raises:
        BackendError: a weight of FM or AM acts in another way than by one product and one sum.
    """
    graph, left_out = model.graph, WEIGHTS_LEFT_OUT[ablation]
    if left_out:
        _redirect(graph, _equal_without(graph, left_out))
    kept = [type(v).FromString(v.SerializeToString()) for v in graph.output]
    del graph.output[:]
    graph.output.extend(value for value in kept if value.name in KEPT_OUTPUTS)
    _remove_unused(graph)
    return model


def _equal_without(graph: Any, left_out: Iterable[str]) -> dict[str, str]:
    """Names of sums that lose a term, with the value that each then equals."""
    weights, vanishing, same = set(left_out), set[str](), dict[str, str]()
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
    return same


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
