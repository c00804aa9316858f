"""Half-precision bundles: strongly typed, fp32 where it must be, right to the last node."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from fam_export.checkpoint import open_checkpoint
from fam_export.exporter import export
from fam_export.options import ExportOptions
from fam_export.parity.check import RELATIVE_TOLERANCES
from fam_runtime.bundle import Bundle
from tests.checkpoints import make_checkpoint
from tests.conftest import Exported, ExportTiny

HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def half(export_tiny: ExportTiny) -> Exported:
    """SDXL: it alone joins sinusoids and text; 1.5x: interpolation matrices in half precision."""
    return export_tiny("sdxl", ("1.5",), ExportOptions(dtype="fp16"))


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bf16")
    make_checkpoint("sd21v", root / "tiny", seed=0)
    options = ExportOptions(dtype="bf16")
    export(open_checkpoint(root / "tiny"), root / "bundle", scales=["2"], options=options)
    return root / "bundle"


def weight_types(graph: Path) -> set[int]:
    model = onnx.load(graph, load_external_data=False)
    floats = {onnx.TensorProto.FLOAT, *HALF}
    return {t.data_type for t in model.graph.initializer if t.data_type in floats}


def session(graph: Path, bundle: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle / graph, providers=["CPUExecutionProvider"])


def test_fp16_graphs_are_strongly_typed(half: Exported) -> None:
    # ONNX Runtime refuses a node whose inputs bind one type parameter to two types.
    for file in Bundle.open(half.bundle).manifest.graphs:
        session(Path(file), half.bundle)


def test_bf16_graphs_are_strongly_typed(brain: Path) -> None:
    for file in Bundle.open(brain).manifest.graphs:
        if file.startswith("vae") or "upsample" in file:
            session(Path(file), brain)
            continue
        # No CPU kernels for bf16: types are checked before that is found out.
        with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
            session(Path(file), brain)


def test_the_check_of_types_can_fail(half: Exported, tmp_path: Path) -> None:
    model = onnx.load(half.bundle / "unet/native.onnx", load_external_data=False)
    cast = next(
        node
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16
    )
    cast.attribute[0].i = onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(Exception, match="Type"):
        session(tmp_path / "broken.onnx", tmp_path)


@pytest.mark.parametrize("part", ["vae_decoder", "vae_encoder"])
def test_vae_stays_in_fp32(half: Exported, brain: Path, part: str) -> None:
    for bundle in (half.bundle, brain):
        assert weight_types(bundle / part / "model.onnx") == {onnx.TensorProto.FLOAT}


def test_unet_and_text_encoders_are_half(half: Exported, brain: Path) -> None:
    for file in ("unet/native.onnx", "text_encoder/model.onnx", "text_encoder_2/model.onnx"):
        assert onnx.TensorProto.FLOAT16 in weight_types(half.bundle / file)
    assert onnx.TensorProto.BFLOAT16 in weight_types(brain / "unet/native.onnx")
    for bundle in (half.bundle, brain):
        spec = Bundle.open(bundle).manifest.graphs["unet/native.onnx"]
        taps = [item.dtype for item in spec.outputs if item.name.startswith("attention")]
        others = {item.dtype for item in spec.inputs}
        assert taps and set(taps) <= {"float16", "bfloat16"}
        assert others == {"float32"}


def test_figures_of_the_check(half: Exported, brain: Path) -> None:
    for bundle, dtype in ((half.bundle, "fp16"), (brain, "bf16")):
        graphs = Bundle.open(bundle).manifest.graphs
        native, decoder = graphs["unet/native.onnx"].check, graphs["vae_decoder/model.onnx"].check
        assert native["tolerance"] == RELATIVE_TOLERANCES[dtype]  # type: ignore[index]
        assert decoder["tolerance"] == RELATIVE_TOLERANCES["fp32"]
        assert ("fp16_relative_error" in native) == (dtype == "fp16")
    assert (
        Bundle.open(half.bundle).manifest.graphs["unet/native.onnx"].check["fp16_relative_error"]
        > 1e-5
    ), "the graph as it is does round"


def test_upcast_attention_scales_the_queries_first(brain: Path) -> None:
    model = ir.load(brain / "unet/native.onnx")
    attentions = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert attentions
    assert all(node.attributes["scale"].as_float() == 1.0 for node in attentions)
