"""The time that a graph or a picture needs at least here, and how far from it a contestant is.

``floor = max(operations / peak, compulsory bytes / bandwidth)``: the roofline model, with measured
ceilings. Compulsory bytes are weights, inputs and outputs; activations between nodes need not leave
the caches if everything is fused. Weights that stay in a cache from step to step are read faster
than the floor says: where it is bound by bytes and the weights are that small, less is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from fam_bench.latency.ablated_graphs import Ablation, ablated_model
from fam_bench.latency.floor.graph_cost import GraphCost, graph_cost, model_cost
from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.errors import InvalidRequest

if TYPE_CHECKING:
    from fam_bench.latency.floor.ceilings import Ceilings
    from fam_runtime.bundle import Bundle, Target

Bound = Literal["operations", "bytes"]
FloorKind = Literal[
    "text_encoder",
    "native",
    "native_plain",
    "upsample",
    "target",
    "without_am",
    "plain",
    "vae_decoder",
    "picture",
]
"""A graph (steps that are timed, and what a picture needs besides them), or all of a picture's."""
FLOOR_KINDS: tuple[FloorKind, ...] = get_args(FloorKind)
AT_NATIVE_SIZE: tuple[FloorKind, ...] = ("text_encoder", "native", "native_plain")


@dataclass(frozen=True)
class Floor:
    """The least time of one run.

    Attributes:
        seconds: the longer of the two.
        operations_seconds: if nothing but arithmetic took time.
        bytes_seconds: if nothing but memory did.
        bound: which it is.
    """

    seconds: float
    operations_seconds: float
    bytes_seconds: float
    bound: Bound


@dataclass(frozen=True)
class Entry:
    """What is measured, and what it costs.

    Attributes:
        kind, scale: as in the results file.
        cost: of one run, for one picture.
    """

    kind: FloorKind
    scale: float
    cost: GraphCost


def floor_of(cost: GraphCost, ceilings: Ceilings) -> Floor:
    """The floor of a graph."""
    operations = cost.operations / ceilings.operations_per_second
    moved = cost.compulsory_bytes / ceilings.bytes_per_second
    bound: Bound = "operations" if operations >= moved else "bytes"
    return Floor(max(operations, moved), operations, moved, bound)


def bundle_entries(
    bundle: Bundle, scales: Sequence[float], steps: int, kinds: Iterable[FloorKind] = FLOOR_KINDS
) -> list[Entry]:
    """What runs of a bundle cost, for one picture.

    Args:
        bundle: its weights are not read.
        scales: of the targets.
        steps: of each stage of a picture.
        kinds: which; what is at the native size is there once, at scale 1.

    Raises:
        TargetNotBuilt: the bundle lacks a scale.
        BackendError: a graph cannot be counted, or FM and AM cannot be told from it.
        InvalidRequest: a kind is not one graph.
        ImportError: onnx is missing.
    """
    entries = []
    for kind in kinds:
        for scale in (1.0,) if kind in AT_NATIVE_SIZE else scales:
            target = None if kind in AT_NATIVE_SIZE else bundle.manifest.target_for_scale(scale)
            if kind == "picture" and target is not None:
                cost = picture_cost(bundle, target, steps)
            else:
                cost = kind_cost(bundle, kind, target)
            entries.append(Entry(kind, scale, cost))
    return entries


def picture_cost(bundle: Bundle, target: Target, steps: int) -> GraphCost:
    """What a picture of both stages costs, if native attention is kept.

    Weights are read anew in every step.
    """
    once: tuple[FloorKind, ...] = ("text_encoder", "upsample", "vae_decoder")
    stages = [kind_cost(bundle, kind, target) for kind in ("native", "target")]
    first, *others = (kind_cost(bundle, kind, target) for kind in once)
    return sum([*others, *(steps * stages)], first)


def kind_cost(bundle: Bundle, kind: FloorKind, target: Target | None) -> GraphCost:
    """What one run of a kind costs.

    The text encoder's are both texts, as with guidance, in one go; the VAE decoder's the whole
    picture, although a large one is decoded in tiles: the least that the same result needs.

    Raises:
        InvalidRequest: the kind is not one graph, or is one of a target and there is none.
    """
    manifest = bundle.manifest
    if kind == "text_encoder":
        texts = {"B": 2 if manifest.model.guidance else 1}
        first, *others = (graph_cost(bundle, own.graph, texts) for own in manifest.text_encoders)
        return sum(others, first)
    if kind == "native":
        return graph_cost(bundle, NATIVE_GRAPH, {"B": 1})
    if kind == "native_plain":
        return _ablated_cost(bundle, NATIVE_GRAPH, kind)
    if target is not None and kind == "vae_decoder":
        height, width = manifest.latent_size(target)
        return graph_cost(bundle, manifest.vae.decoder, {"B": 1, "h": height, "w": width})
    if target is not None and kind == "upsample":
        return graph_cost(bundle, target.upsample, {"B": 1})
    if target is not None and kind == "target":
        return graph_cost(bundle, target.step, {"B": 1})
    if target is not None and (kind == "without_am" or kind == "plain"):
        return _ablated_cost(bundle, target.step, kind)
    raise InvalidRequest(
        "there is no floor of this kind",
        got=kind if target is not None else f"{kind} without a target",
        expected=", ".join(FLOOR_KINDS),
    )


def _ablated_cost(bundle: Bundle, graph: str, ablation: Ablation) -> GraphCost:
    import onnx

    model = onnx.load(bundle.path(graph), load_external_data=False)
    return model_cost(ablated_model(model, ablation), {"B": 1})


def step_terms(bundle: Bundle, target: Target) -> dict[str, GraphCost]:
    """What FM, AM and the rest (the UNet, guidance, the sampler) add to a target step each.

    Raises:
        BackendError: see :func:`bundle_entries`.
        ImportError: onnx is missing.
    """
    whole, without_am, plain = (
        kind_cost(bundle, kind, target) for kind in ("target", "without_am", "plain")
    )
    return {"FM": without_am - plain, "AM": whole - without_am, "UNet": plain}


def floor_rows(entries: Iterable[Entry], ceilings: Ceilings) -> list[dict[str, Any]]:
    """Costs and floors as JSON types, one row per entry."""
    rows = []
    for entry in entries:
        cost, floor = entry.cost, floor_of(entry.cost, ceilings)
        rows.append(
            {
                "kind": entry.kind,
                "scale": entry.scale,
                "operations": cost.operations,
                "operations_by_family": dict(cost.operations_by_family),
                "weight_bytes": cost.weight_bytes,
                "io_bytes": cost.io_bytes,
                "activation_bytes": cost.activation_bytes,
                "floor_seconds": floor.seconds,
                "bound": floor.bound,
            }
        )
    return rows


def ratio_to_floor(figure: Mapping[str, Any], floors: Iterable[Mapping[str, Any]]) -> float | None:
    """How many times the floor a measured row took; 1 is as fast as the machine allows.

    It is the time on the device where that is known: the floor has no launches in it.

    Args:
        figure: a row of the results' `figures`.
        floors: of :func:`floor_rows`, on the device that was measured.

    Returns:
        None where no floor is of the row's kind and scale.
    """
    for row in floors:
        if (row["kind"], row["scale"]) == (figure["kind"], figure["scale"]):
            seconds = figure["median_device_seconds"] or figure["median_seconds"]
            return float(seconds / row["floor_seconds"])
    return None
