"""A graph of a bundle as a TensorRT network: parsed, compared with the manifest, shapes set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.checks import split_symbol
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.messages import Messages
from fam_runtime.backends.tensorrt.shapes import (
    InputShapes,
    SymbolRange,
    SymbolRanges,
    input_shapes,
)
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec, TensorSpec

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64"}
"""Names of the members of TensorRT's DataType, and the manifest's."""

DescribedTensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype as the manifest writes it, and shape with -1 for a size that is not fixed."""


@dataclass
class Network:
    """A parsed network with its builder; the parser holds the weights, so it stays too.

    Attributes:
        builder, definition, parser: of the library.
        shapes: of every input, as set.
    """

    builder: Any
    definition: Any
    parser: Any
    shapes: Mapping[str, InputShapes]

    @property
    def dynamic(self) -> bool:
        """Whether an input has a range of shapes, so that the build needs a profile."""
        return any(not shape.static for shape in self.shapes.values())


def network_from_onnx(
    library: TensorrtLibrary, path: Path, spec: GraphSpec, ranges: SymbolRanges, messages: Messages
) -> Network:
    """Parse the graph at `path`, with the weights beside it, as a strongly typed network.

    Args:
        library: who parses.
        path: the .onnx file, already verified.
        spec: what the manifest says about it.
        ranges: sizes of the symbols.
        messages: receives what the library says.

    Raises:
        BackendError: the parser refuses the graph, or its inputs and outputs are not the
            manifest's.
    """
    trt = library.module
    builder = trt.Builder(messages.logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(definition, messages.logger)
    if not parser.parse_from_file(str(path)):
        raise BackendError(
            f"{library.title} {library.version} cannot parse {path.name}",
            got=parser_errors(parser) or messages.last(),
            expected="a graph of operators that it knows",
            fix="try another version of the library; the onnxruntime backend runs every bundle",
        )
    inputs, outputs = _inputs(definition), _outputs(definition)
    check_tensors(f"{path.name}: an input", expected_tensors(spec.inputs, {}), _described(inputs))
    network = Network(builder, definition, parser, input_shapes(spec.inputs, ranges))
    for tensor in inputs:
        low, _, high = network.shapes[tensor.name]
        tensor.shape = [a if a == b else -1 for a, b in zip(low, high, strict=True)]
    expected = expected_tensors(spec.outputs, ranges)
    check_tensors(f"{path.name}: an output", expected, _described(outputs))
    return network


def dtype_name(dtype: Any) -> str:
    """A TensorRT dtype as the manifest writes it."""
    return _DTYPES.get(dtype.name, dtype.name)


def expected_tensors(specs: Sequence[TensorSpec], ranges: SymbolRanges) -> list[DescribedTensor]:
    """The manifest's tensors as the library describes them: -1 for a size that is not fixed.

    Args:
        specs: inputs or outputs of a graph.
        ranges: sizes of the symbols; what is not among them is not fixed.
    """

    def size(dimension: int | str) -> int:
        if isinstance(dimension, int):
            return dimension
        factor, symbol = split_symbol(dimension)
        low, _, high = ranges.get(symbol, SymbolRange(0, 0, -1))
        return factor * low if low == high else -1

    return [(spec.name, spec.dtype, tuple(map(size, spec.shape))) for spec in specs]


def check_tensors(
    what: str,
    expected: Sequence[DescribedTensor],
    found: Sequence[DescribedTensor],
    fix: str = "export the bundle again with this version of fam-export",
) -> None:
    """Compare names, order, dtypes and shapes.

    Raises:
        BackendError: they differ.
    """
    if list(found) == list(expected):
        return
    pairs = ((f, e) for f, e in zip(found, expected, strict=False) if f != e)
    got, right = next(pairs, (f"{len(found)} of them", f"{len(expected)}"))
    raise BackendError(
        f"{what} is not what the manifest says",
        got=got,
        expected=str(right),
        fix=fix,
    )


def _described(tensors: Sequence[Any]) -> list[DescribedTensor]:
    return [(t.name, dtype_name(t.dtype), tuple(t.shape)) for t in tensors]


def _inputs(definition: Any) -> list[Any]:
    return [definition.get_input(index) for index in range(definition.num_inputs)]


def _outputs(definition: Any) -> list[Any]:
    return [definition.get_output(index) for index in range(definition.num_outputs)]


def parser_errors(parser: Any) -> str:
    """What a parser complained of; empty if it did not."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{error.desc()} (operator {error.node_operator()})" for error in errors)
