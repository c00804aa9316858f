"""Every graph of the demo bundle becomes an engine of TensorRT for RTX, in fp32 and fp16, for GPUs
of three generations, on a machine without any."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from fam_export.cli import main
from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.cache import EngineCache
from fam_runtime.backends.tensorrt.engines import Engines, engines_of_targets
from fam_runtime.backends.tensorrt.library import import_library
from fam_runtime.backends.tensorrt.messages import Messages
from fam_runtime.backends.tensorrt.network import network_from_onnx
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.bundle import Bundle, TensorSpec

GRAPHS = (
    "text_encoder/model.onnx",
    "unet/native.onnx",
    "unet/upsample-128x128.onnx",
    "unet/target-128x128.onnx",
    "unet/upsample-256x256.onnx",
    "unet/target-256x256.onnx",
    "vae_decoder/model.onnx",
)
OTHER_ARCHITECTURES = ("sm86", "sm120")
NAMES_OF_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64"}


@dataclass(frozen=True)
class ExportedDemo:
    """The demo bundle, and what `fam-export --backend` said of its engines."""

    bundle: Bundle
    cache: Path
    engines: list[dict[str, object]]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedDemo:
    """Exported at 2x and 4x, with engines for one architecture, by the command line."""
    root = tmp_path_factory.mktemp(f"demo-{request.param}")
    output, cache, report = root / "bundle", root / "cache", root / "report.json"
    command = ["--scale", "2", "--scale", "4", "--dtype", request.param, "-o", str(output), "-q"]
    command += ["--backend", "tensorrt-rtx", "--gpu-arch", "8.9", "--cache-dir", str(cache)]
    assert main([*command, "--report", str(report)]) == 0
    return ExportedDemo(Bundle.open(output), cache, json.loads(report.read_text())["engines"])


@pytest.mark.slow
def test_fam_export_builds_every_engine(demo: ExportedDemo) -> None:
    graphs = [engine["graph"] for engine in demo.engines]
    assert sorted(set(map(str, graphs))) == sorted(GRAPHS)
    assert graphs.count("vae_decoder/model.onnx") == 2, "one per size that is decoded"
    plans = sorted(path.name for path in demo.cache.rglob("*.plan"))
    assert plans == sorted(str(engine["file"]) for engine in demo.engines)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHER_ARCHITECTURES)
def test_engines_build_for_other_gpus(demo: ExportedDemo, architecture: str) -> None:
    library, settings = import_library("tensorrt-rtx"), BuildSettings()
    engines = Engines(library, Gpu(architecture), settings, EngineCache(demo.cache))
    wanted = engines_of_targets(demo.bundle, demo.bundle.manifest.targets, settings)
    for engine in wanted:
        data = engines.plan(demo.bundle, engine).data
        assert len(data) > demo.bundle.manifest.files[engine.graph].bytes // 2


def resolved(spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    """The manifest's shape, by hand."""
    return tuple(d if isinstance(d, int) else int(d[:-1] or 1) * sizes[d[-1]] for d in spec.shape)


@pytest.mark.slow
def test_networks_are_what_the_manifest_says(demo: ExportedDemo) -> None:
    """Names, order, dtypes, static shapes and fused attentions, read from the library's network."""
    library, settings = import_library("tensorrt-rtx"), BuildSettings()
    wanted = engines_of_targets(demo.bundle, demo.bundle.manifest.targets, settings)
    for engine in wanted:
        spec, path = demo.bundle.manifest.graphs[engine.graph], demo.bundle.path(engine.graph)
        network = network_from_onnx(library, path, spec, engine.ranges, Messages(library))
        sizes = {symbol: span.optimum for symbol, span in engine.ranges.items()}
        definition = network.definition
        for specs, count, get in (
            (spec.inputs, definition.num_inputs, definition.get_input),
            (spec.outputs, definition.num_outputs, definition.get_output),
        ):
            tensors = [get(index) for index in range(count)]
            found = [(t.name, NAMES_OF_DTYPES[t.dtype.name], tuple(t.shape)) for t in tensors]
            assert found == [(s.name, s.dtype, resolved(s, sizes)) for s in specs]
        fused = [definition.get_layer(i).type.name for i in range(definition.num_layers)]
        nodes = onnx.load(path, load_external_data=False).graph.node
        attentions = sum(node.op_type == "MultiHeadAttention" for node in nodes)
        assert fused.count("ATTENTION_INPUT") == attentions
        assert (attentions > 0) == engine.graph.startswith(("unet/native", "unet/target"))
