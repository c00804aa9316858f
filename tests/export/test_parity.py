"""The numeric check: what it must notice, directly, through the twin and in its own process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.torch import load_file, save_file

from fam_export.checkpoint import open_checkpoint
from fam_export.graph_factory import GraphFactory, GraphName, twin_grids
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_export.parity import GraphCheck, check_in_own_process, run_check
from fam_export.parity.twin import check_same_graph
from fam_export.parity.widened import widen
from fam_export.shared_weights import read_weight_table
from fam_runtime.bundle import Target
from fam_runtime.errors import ExportError, ParityError
from tests.checkpoints import make_checkpoint
from tests.conftest import Exported, ExportTiny

TARGET = GraphName("target", Target.for_size(192, 192))


@pytest.fixture(scope="module")
def half(export_tiny: ExportTiny) -> Exported:
    return export_tiny("sdxl", ("1.5",), ExportOptions(dtype="fp16"))


@pytest.fixture
def check(half: Exported, tmp_path: Path) -> GraphCheck:
    """Of the target step of a copy of the bundle that may be damaged, through its twin."""
    bundle = Path(shutil.copytree(half.bundle, tmp_path / "bundle"))
    return GraphCheck(
        checkpoint=open_checkpoint(half.checkpoint),
        options=ExportOptions(dtype="fp16"),
        graph=TARGET,
        file=bundle / "unet/target-192x192.onnx",
        weights=bundle / "unet",
        twin=True,
    )


def scale_weight(weights: Path, name: str, factor: float) -> None:
    entry = read_weight_table(weights)[name]
    values = np.memmap(weights / "weights.bin", np.float16, "r+", entry.offset, entry.shape)
    values *= np.float16(factor)
    values.flush()


def test_twin_and_direct_check_agree_that_the_graph_is_right(check: GraphCheck) -> None:
    through_twin = run_check(check)
    direct = run_check(replace(check, twin=False))
    assert through_twin.twin == "12x12" and direct.twin is None
    assert 0 < through_twin.max_relative_error < through_twin.tolerance
    assert 0 < direct.max_relative_error < direct.tolerance


def test_wrong_weight_is_noticed_in_the_process(check: GraphCheck) -> None:
    scale_weight(check.weights, "unet.mid_block.resnets.0.conv1.weight", 2)
    with pytest.raises(ParityError, match="is not what the PyTorch module computes"):
        check_in_own_process(check)


def test_process_that_dies_says_what_to_do(
    check: GraphCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fam_export.parity.process.sys.executable", shutil.which("false"))
    with pytest.raises(ExportError, match="numeric check of target-192x192.onnx stopped"):
        check_in_own_process(check)


def test_overflow_in_fp16_is_noticed(tmp_path: Path) -> None:
    """fp16 holds every weight, but not a sum inside; a norm makes the outputs small again."""
    checkpoint = make_checkpoint("sd15", tmp_path / "tiny")
    file = checkpoint / "text_encoder/model.safetensors"
    weights = load_file(file)
    for layer in ("fc1", "fc2"):
        weights[f"encoder.layers.0.mlp.{layer}.weight"] *= 1024
    assert max(values.abs().max() for values in weights.values()) < 1e3
    save_file(weights, file, {"format": "pt"})
    name = GraphName("text_encoder")
    run_check(exported_alone(checkpoint, ExportOptions(), name, tmp_path))
    half = exported_alone(checkpoint, ExportOptions(dtype="fp16"), name, tmp_path)
    with pytest.raises(ParityError, match="is not what .*relative error nan.*float16 overflows"):
        run_check(half)


def exported_alone(
    checkpoint: Path, options: ExportOptions, name: GraphName, folder: Path
) -> GraphCheck:
    """One graph of a checkpoint, its weights inside."""
    opened = open_checkpoint(checkpoint)
    file = folder / f"{name.kind}-{options.dtype}.onnx"
    ir.save(traced_graph(GraphFactory(opened, options).definition(name)).model, file)
    return GraphCheck(opened, options, name, file, folder)


def test_another_graph_is_not_its_twin(half: Exported) -> None:
    file = half.bundle / "unet/target-192x192.onnx"
    check_same_graph("same", ir.load(file), ir.load(file))
    for damage in (
        swap_two_weights,
        change_attribute,
        swap_inputs,
        drop_last_node,
        change_interpolation,
        change_index,
    ):
        damaged = ir.load(file)
        damage(damaged)
        with pytest.raises(ParityError, match="is not the graph that was compared"):
            check_same_graph("damaged", ir.load(file), damaged)


def swap_two_weights(model: ir.Model) -> None:
    seen: dict[str, ir.Value] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if (other := seen.setdefault(str(tensor.shape), value)) is not value:
            other.const_value, value.const_value = tensor, other.const_value
            return
    raise AssertionError("no two weights of one shape")


def change_interpolation(model: ir.Model) -> None:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or len(tensor.shape) != 2:
            continue
        if tensor.dtype.is_floating_point():
            value.const_value = ir.tensor(tensor.numpy() * 1.5, name=tensor.name)
            return
    raise AssertionError("no interpolation matrix")


def change_index(model: ir.Model) -> None:
    """The guidance halves come from the other end of the batch."""
    node = next(node for node in model.graph if node.op_type == "Slice")
    start = node.inputs[1]
    assert start is not None and start.const_value is not None
    moved = ir.tensor(start.const_value.numpy() + 1, name="moved")
    value = ir.Value(name="moved", const_value=moved, type=start.type, shape=start.shape)
    model.graph.register_initializer(value)
    node.replace_input_with(1, value)


def change_attribute(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.5)


def swap_inputs(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "MultiHeadAttention")
    query, key = node.inputs[0], node.inputs[1]
    node.replace_input_with(0, key)
    node.replace_input_with(1, query)


def drop_last_node(model: ir.Model) -> None:
    output = model.graph.outputs[0]
    node = output.producer()
    assert node is not None and node.inputs[0] is not None
    model.graph.outputs[0] = node.inputs[0]
    model.graph.remove(node)


def test_widened_graph_has_no_half_precision_but_in_weights(half: Exported) -> None:
    model = ir.load(half.bundle / "unet/native.onnx")
    widen(model)
    casts = [n for n in model.graph if n.op_type == "Cast"]
    assert not any(n.attributes["to"].as_int() == ir.DataType.FLOAT16 for n in casts)
    sources = {node.inputs[0] for node in casts}
    assert sum(source is not None and source.is_initializer() for source in sources) > 50
    assert all(value.dtype != ir.DataType.FLOAT16 for value in model.graph.outputs)


@pytest.mark.parametrize(
    ("native", "target", "multiple", "expected"),
    [
        ((128, 128), (256, 256), 4, ((8, 8), (16, 16))),
        ((64, 64), (256, 256), 8, ((16, 16), (64, 64))),
        ((128, 128), (192, 128), 4, ((8, 8), (12, 8))),
        ((128, 128), (288, 256), 4, ((16, 8), (36, 16))),
        ((96, 96), (96, 96), 8, ((16, 16), (16, 16))),
    ],
)
def test_twin_keeps_the_factors(native, target, multiple, expected) -> None:  # type: ignore[no-untyped-def]
    small_native, small_target = twin_grids(native, target, multiple)
    assert (small_native, small_target) == expected
    for axis in range(2):
        assert small_target[axis] * native[axis] == small_native[axis] * target[axis]
        assert small_native[axis] % multiple == small_target[axis] % multiple == 0


def test_twin_of_an_odd_factor_is_small_all_the_same() -> None:
    assert twin_grids((128, 128), (132, 208), 4) == ((8, 8), (12, 12))


def test_reference_computes_in_fp32_with_the_weights_of_the_graph(half: Exported) -> None:
    factory = GraphFactory(
        open_checkpoint(half.checkpoint), ExportOptions(dtype="fp16"), reference=True
    )
    definition = factory.definition(GraphName("native"))
    assert {spec.dtype for spec in definition.outputs} == {"float32"}
    assert {str(p.dtype) for p in definition.module.parameters()} == {"torch.float32"}


def test_pixel_upsampler_has_a_twin_too(half: Exported, tmp_path: Path) -> None:
    name = GraphName("upsample", Target.for_size(256, 256))
    options = ExportOptions(upsample_space="pixel")
    check = replace(exported_alone(half.checkpoint, options, name, tmp_path), twin=True)
    assert run_check(check).twin == "8x8"
    damaged = ir.load(check.file)
    weight = next(v for n, v in damaged.graph.initializers.items() if n.endswith("conv_in.weight"))
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1.01, name=weight.name)
    ir.save(damaged, check.file)
    with pytest.raises(ParityError, match="is not the graph that was compared"):
        run_check(check)
