"""How the operations of a target step grow with its pixels: FM, AM and the UNet apart.

``python -m fam_bench.latency.floor.growth sd15 sdxl`` traces the steps of full-size architectures
without weights, which takes minutes; a folder is a bundle, whose graphs are read.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_bench.latency.ablated_graphs import ablated_model
from fam_bench.latency.floor.floor import step_terms
from fam_bench.latency.floor.graph_cost import GraphCost, model_cost
from fam_bench.latency.results.scaling import fitted_slope
from fam_runtime.bundle import Bundle, Target
from fam_runtime.cli.errors import run_cli

if TYPE_CHECKING:
    import onnx

    from fam_export.graph_definition import GraphDefinition

SCALES = (2.0, 3.0, 4.0)
MAX_CONSTANT_VALUES = 64
"""Larger tensors are weights, of which the shape is enough."""

Terms = Mapping[str, GraphCost]


def terms_of_bundle(folder: Path) -> dict[int, Terms]:
    """FM, AM and UNet of every target, by its pixels."""
    bundle = Bundle.open(folder, verify="size")
    targets = bundle.manifest.targets
    return {target.height * target.width: step_terms(bundle, target) for target in targets}


def terms_of_architecture(kind: str, scales: Sequence[float] = SCALES) -> dict[int, Terms]:
    """The same of a full-size architecture, ``sd15``, ``sd21`` or ``sdxl``, in fp16."""
    import torch

    from fam_bench.random_checkpoint import RandomCheckpoint
    from fam_export import definitions
    from fam_export.checkpoint.modules import empty_module
    from fam_export.deferred import defer
    from fam_export.options import ExportOptions

    configuration = RandomCheckpoint.of(kind).configuration
    unet = empty_module("unet", configuration.read("unet"), kind)
    vae = configuration.read("vae")
    zeros = _OnDemand({name: own.shape for name, own in unet.named_parameters()}, torch.zeros)
    defer(unet, zeros, torch.float16)
    options = ExportOptions(dtype="fp16")
    pixels = 1 << (len(vae["block_out_channels"]) - 1)
    facts = definitions.unet_facts(unet, pixels, options)
    found: dict[int, Terms] = {}
    for scale in scales:
        size = [int(scale * side) for side in (facts.native.height, facts.native.width)]
        target = Target.for_size(*size)
        model = model_without_weights(definitions.target_step(unet, facts, target, options))
        found[prod(size)] = terms_of_model(model)
    return found


class _OnDemand(dict[str, Any]):
    """Tensors by name, made when they are asked for; the tracer looks into small ones."""

    def __init__(self, shapes: Mapping[str, Any], make: Callable[[Any], Any]) -> None:
        super().__init__(shapes)
        self._make = make

    def __getitem__(self, name: str) -> Any:
        return self._make(super().__getitem__(name))


def terms_of_model(model: onnx.ModelProto) -> dict[str, GraphCost]:
    """FM, AM and UNet of a target step, for one picture."""
    one = {"B": 1}
    whole = model_cost(model, one)
    without_am = model_cost(ablated_model(copy.deepcopy(model), "without_am"), one)
    plain = model_cost(ablated_model(model, "plain"), one)
    return {"FM": without_am - plain, "AM": whole - without_am, "UNet": plain}


def model_without_weights(definition: GraphDefinition) -> onnx.ModelProto:
    """The graph of a definition; its weights have shapes only, and refer to no file."""
    import onnx_ir as ir

    from fam_export.onnx_model import traced_graph

    model = traced_graph(definition).model
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or prod(tensor.shape.numpy()) <= MAX_CONSTANT_VALUES:
            continue
        shape: Any = tensor.shape
        value.const_value = ir.ExternalTensor(
            "weights.bin", 0, tensor.nbytes, tensor.dtype, shape=shape, name=value.name or ""
        )
    return ir.to_proto(model)


def growth_row(name: str, terms: Mapping[int, Terms]) -> str:
    """A row of the table: exponents over all sizes, and shares at the smallest and the largest."""
    pixels = sorted(terms)

    def exponent(term: str, family: str | None = None) -> float:
        counts = []
        for size in pixels:
            cost = terms[size][term]
            counts.append(cost.operations_by_family[family] if family else cost.operations)  # type: ignore[index]
        return fitted_slope(pixels, counts).exponent

    def share(term: str, size: int) -> str:
        part = terms[size][term].operations / terms[size]["UNet"].operations
        return f"{100 * part:.2g}"

    cells = [f"{exponent(term):.2f}" for term in ("FM", "AM", "UNet")]
    cells.append(f"{exponent('UNet', 'attention'):.2f}")
    first, last = pixels[0], pixels[-1]
    cells += [f"{share(term, first)} to {share(term, last)} %" for term in ("FM", "AM")]
    return f"| {name} | " + " | ".join(cells) + " |"


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.latency.floor.growth",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("what", nargs="+", metavar="WHAT", help="sd15, sd21, sdxl, or a bundle")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Count, and print the table."""
    print("| model | FM | AM | UNet | its attention | FM, share of the UNet | AM |")
    print("|---|---|---|---|---|---|---|")
    for what in arguments.what:
        folder = Path(what)
        whole = terms_of_bundle(folder) if folder.is_dir() else terms_of_architecture(what)
        print(growth_row(folder.name, whole), flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
