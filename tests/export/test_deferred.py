"""Tracing without data: the graph is the same, and weights are read one at a time, when written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn

from fam_export.deferred import data_on_demand, defer
from fam_export.graph_definition import GraphDefinition
from fam_export.onnx_model import traced_graph
from fam_export.shared_weights import read_weight_table, write_shared_weights
from fam_runtime.bundle import TensorSpec


class Layers(nn.Module):
    """A product whose weight the tracer transposes, a convolution, and a constant of its own."""

    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(64, 256), nn.Conv1d(5, 5, 3, padding=1)
        shift = torch.linspace(-1, 1, 6 * 256).reshape(6, 256)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(self.linear(values)) + self.shift[:5]
        return torch.nn.functional.gelu(hidden)


class CountingSource(Mapping[str, torch.Tensor]):
    """Tells how often each tensor was read."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors = {name: p.detach().clone() for name, p in module.named_parameters()}
        self.reads: dict[str, int] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        self.reads[name] = self.reads.get(name, 0) + 1
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def definition(module: nn.Module) -> GraphDefinition:
    return GraphDefinition(
        file="graph.onnx",
        module=module,
        inputs=(TensorSpec("values", "float32", ("B", 5, 64)),),
        outputs=(TensorSpec("result", "float32", ("B", 5, 256)),),
        keyed=False,
        trace_sizes={"B": 3},
        check_sizes=({"B": 2},),
    )


@pytest.fixture
def layers() -> Layers:
    torch.manual_seed(0)
    return Layers().eval().requires_grad_(False)


def test_large_weights_are_read_only_when_they_are_written(layers: Layers, tmp_path: Path) -> None:
    source = CountingSource(layers)
    defer(layers, source, torch.float32)
    model = traced_graph(definition(layers)).model
    assert "linear.weight" not in source.reads
    write_shared_weights(model, tmp_path)
    assert source.reads["linear.weight"] == 1
    table = read_weight_table(tmp_path)
    assert table["linear.weight.transposed"].shape == (64, 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_written_weights_are_those_of_the_checkpoint(
    layers: Layers, tmp_path: Path, dtype: torch.dtype
) -> None:
    weight = layers.linear.weight.clone()
    defer(layers, CountingSource(layers), dtype)
    module = nn.Sequential(Cast(dtype), layers, Cast(torch.float32))
    write_shared_weights(traced_graph(definition(module)).model, tmp_path)
    (entry,) = (e for n, e in read_weight_table(tmp_path).items() if n.endswith("transposed"))
    data = (tmp_path / "weights.bin").read_bytes()[entry.offset : entry.offset + entry.bytes]
    stored = torch.frombuffer(bytearray(data), dtype=dtype).reshape(entry.shape)
    assert torch.equal(stored, weight.T.to(dtype))


class Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.dtype)


def test_graph_without_data_is_the_graph_with_data(layers: Layers) -> None:
    values = torch.randn(2, 5, 64)
    expected = layers(values)
    with_data = traced_graph(definition(layers)).model
    defer(layers, CountingSource(layers), torch.float32)
    without = traced_graph(definition(layers)).model
    assert [node.op_type for node in without.graph] == [node.op_type for node in with_data.graph]
    session = session_of(without)
    (got,) = session.run(None, {"values": values.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-5, atol=1e-6)


def session_of(model: ir.Model):  # type: ignore[no-untyped-def]
    import onnxruntime

    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def test_module_computes_with_data_on_demand_and_has_none_afterwards(layers: Layers) -> None:
    values = torch.randn(2, 5, 64)
    source = CountingSource(layers)
    rounded = {name: t.to(torch.float16).float() for name, t in source.tensors.items()}
    expected = torch.func.functional_call(layers, rounded, (values,))
    defer(layers, source, torch.float16, compute_dtype=torch.float32)
    with data_on_demand(layers, torch.float32):
        assert torch.equal(layers(values), expected)
    assert all(parameter.is_meta for parameter in layers.parameters())
    assert not layers.shift.is_meta
