"""Memory budgets: which plan is chosen, what it says, and that the process keeps within it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fam_runtime import FamPipeline
from fam_runtime.backends.base import GraphMemory
from fam_runtime.backends.onnxruntime import OnnxruntimeBackend
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import InvalidRequest
from fam_runtime.memory_phases import OVERHEAD_BYTES, Call
from fam_runtime.memory_plan import plan_memory, within_memory_plan
from fam_runtime.request import resolve_request
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.heavy_bundle import UNET_BYTES, write_heavy_bundle

MEBIBYTE = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("bundles") / "sd"))


class Accountant:
    """A backend whose graphs take round numbers, in GiB / 1000: mapped, the UNet shares 1000."""

    def memory_of(self, bundle, graph, *, low_memory):
        weights, running = 300, 50
        if graph == NATIVE_GRAPH or graph.startswith("unet/target"):
            weights, running = 1000, 100
        elif "upsample" in graph:
            weights, running = 10, 10
        elif "vae" in graph:
            running *= 16  # it is about 64 x 64 latent samples, the target has 16 x 16
        if low_memory:
            shared = weights if weights == 1000 else 0
            return self.in_bytes(weights - shared, 0, shared, running)
        return self.in_bytes(weights, 2 * weights, 0, running)

    def in_bytes(self, *thousandths):
        return GraphMemory(*(round(size * (1 << 30) / 1000) for size in thousandths))


def call(bundle, **options):
    """A call whose latents and pictures take nothing to speak of."""
    request = resolve_request(bundle, "a cat", **options)
    return Call(
        bundle, Accountant(), request, "pil", native_wanted=False, base_bytes=-OVERHEAD_BYTES
    )


def choice(plan):
    tile = None if plan.tiling is None else plan.tiling.tile
    return plan.weights, plan.native_attention, tile


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [
        (9, ("packed", "store", None)),
        (3.3, ("packed by phase", "store", None)),
        (1.3, ("mapped", "store", None)),
    ],
)
def test_the_fastest_plan_that_fits(bundle, gigabytes, expected):
    plan = plan_memory(call(bundle), int(gigabytes * (1 << 30)))
    assert choice(plan) == expected
    assert plan.peak_bytes <= gigabytes * (1 << 30)
    request = within_memory_plan(call(bundle).request, plan)
    assert (request.native_attention, request.tiling) == (expected[1], None)


def test_what_each_phase_takes(bundle):
    """Loading 2000, held 1100 a step graph, others 350; a second call meets all of them."""
    plan = plan_memory(call(bundle), 1 << 40)
    small = {name: round(1000 * size / (1 << 30)) for name, size in plan.phases.items()}
    everything = 350 + 1100 + 20 + 1100 + 350
    assert small == {
        "text": everything,
        "native": everything,
        "upsample": everything,
        "target": 350 + 1100 + 20 + 2000,
        "decode": pytest.approx(350 + 1100 + 20 + 1100 + 600, abs=2),
    }


def test_replay_comes_before_smaller_tiles_and_holds_shared_weights_once(bundle):
    steps = {"num_inference_steps": 100}
    stored = plan_memory(call(bundle, native_attention="store", **steps), 1 << 40, low_memory=True)
    replayed = plan_memory(
        call(bundle, native_attention="replay", **steps), 1 << 40, low_memory=True
    )
    taps = 99 * 2 * (2 * 64 * 4 * 4)  # all but the one in use; [2B, n, C] float32, two tensors
    assert stored.phases["target"] - replayed.phases["target"] == taps
    plan = plan_memory(call(bundle, **steps), stored.peak_bytes - 1)
    assert choice(plan) == ("mapped", "replay", None)


def test_smaller_tiles_come_last(bundle):
    """The decoder dominates: everything else at its most frugal, then the picture in tiles."""

    class HeavyDecoder(Accountant):
        def memory_of(self, bundle, graph, *, low_memory):
            memory = super().memory_of(bundle, graph, low_memory=low_memory)
            if "vae_decoder" in graph:
                return replace(memory, running_bytes=memory.running_bytes * 1000)
            return memory

    large = replace(call(bundle), backend=HeavyDecoder())
    assert choice(plan_memory(large, 1 << 60)) == ("packed", "store", None)
    # Latents of 16 x 32 have no smaller tiling to offer; a picture of 1024 x 2048 has four.
    size = replace(large.request.target, height=1024, width=2048)
    offered = replace(
        large.request, target=size, smaller_tilings=_tilings_of(128, 256), tiling=None
    )
    large = replace(large, request=offered)
    whole = plan_memory(large, 1 << 60, low_memory=True).phases["decode"]
    for budget, tile in ((whole, None), (whole - 1, 96), (whole // 4, 64), (whole // 20, 32)):
        assert choice(plan_memory(large, budget))[2] == tile


def _tilings_of(height, width):
    from fam_runtime.tiling import smaller_tilings

    return smaller_tilings(height, width)


def test_what_the_call_fixes_stays_fixed(bundle):
    fixed = call(bundle, native_attention="store", tile=16)
    assert fixed.request.smaller_tilings == ()
    with pytest.raises(InvalidRequest):
        plan_memory(fixed, 1 << 20)
    assert plan_memory(fixed, 1 << 40, low_memory=True).weights == "mapped"
    assert plan_memory(call(bundle, method="fm"), 1 << 40).native_attention == "none"
    assert "native" not in plan_memory(call(bundle, method="direct"), 1 << 40).phases


def test_a_budget_that_is_too_small_names_the_smallest_that_would_do(bundle):
    with pytest.raises(InvalidRequest, match="memory budget is too small .* got '1M'") as caught:
        plan_memory(call(bundle), MEBIBYTE)
    named = re.search(
        r"at least (\d+)M \(text \d+M, native \d+M, .*decode \d+M\)", str(caught.value)
    )
    needed = int(named[1]) * MEBIBYTE
    assert f"--memory-budget {named[1]}M" in str(caught.value)
    assert plan_memory(call(bundle), needed).peak_bytes <= needed
    with pytest.raises(InvalidRequest, match="too small"):
        plan_memory(call(bundle), needed - 5 * MEBIBYTE)


def test_a_gpu_keeps_no_budget_of_the_host(bundle):
    request = resolve_request(bundle, "a cat")
    backend = OnnxruntimeBackend(provider="cuda")
    with pytest.raises(InvalidRequest, match="memory budget is for graphs .* host's memory"):
        plan_memory(Call(bundle, backend, request, "pil", False, 0), 1 << 40)


def test_a_pipeline_changes_its_way_with_the_budget(bundle):
    with FamPipeline.from_pretrained(bundle.root, progress=False, memory_budget_bytes=1 << 40) as p:
        packed = p("a cat", output_type="latent")
        assert packed.report["memory"]["weights"] == "packed" and len(p._pool._runners) == 4
        p("a cat", height=128, width=256, output_type="latent")
        assert "unet/target-128x128.onnx" not in p._pool._runners  # not part of this call's plan
        largest = packed.report["memory"]["peak_bytes"]
        p.memory_budget_bytes = largest - 1
        tight = p("a cat", output_type="latent", native_attention="store")
        assert tight.report["memory"]["weights"] != "packed" and not p._pool._runners
        assert tight.report["memory_budget_bytes"] == largest - 1
        assert abs(tight.latents - packed.latents).max() < 1e-4
        p.memory_budget_bytes = 1
        with pytest.raises(InvalidRequest, match="too small"):
            p("a cat")
    with pytest.raises(InvalidRequest, match="memory_budget_bytes is out of range .* got '1G'"):
        FamPipeline.from_pretrained(bundle.root, progress=False, memory_budget_bytes="1G")


MEASURE = """
import json, sys
from fam_runtime import FamPipeline
with FamPipeline.from_pretrained(
    sys.argv[1], progress=False, verify="size", memory_budget_bytes=int(sys.argv[2])
) as pipe:
    memory = pipe("a cat").report["memory"]
status = open("/proc/self/status").read()
peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if "VmHWM" in line)
print(json.dumps({"peak": peak, "memory": memory}))
"""


def measured(root: Path, budget_bytes: int):
    """The peak of a fresh process that makes one picture, and its plan."""
    command = [sys.executable, "-c", MEASURE, str(root), str(budget_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


@on_linux
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_process_keeps_within_its_budget(tmp_path, dtype):
    """230 MB of UNet, 100 of text encoder, 75 of VAE (float32): twice any of them is over."""
    root = write_heavy_bundle(tmp_path / "heavy", dtype=dtype)
    smallest = int(re.search(r"--memory-budget (\d+)M", measured(root, 1))[1]) * MEBIBYTE
    everything = measured(root, 1 << 40)
    assert everything["memory"]["weights"] == "packed"
    by_phase = measured(root, everything["memory"]["peak_bytes"] - 64 * MEBIBYTE)
    assert by_phase["memory"]["weights"] == "packed by phase"
    mapped = measured(root, smallest)
    assert mapped["memory"]["weights"] == "mapped"
    for run in (everything, by_phase, mapped):
        assert run["peak"] <= run["memory"]["peak_bytes"] <= run["memory"]["budget_bytes"]
    for run in (everything, mapped):
        # Of so small a process the fixed overhead is a fifth.
        assert run["memory"]["peak_bytes"] <= 1.35 * run["peak"]
    # The UNet once, in its own precision, and the process.
    weights = UNET_BYTES if dtype == "fp32" else UNET_BYTES // 2
    assert mapped["peak"] <= weights + 160 * MEBIBYTE


@on_linux
@pytest.mark.parametrize("attention", ["store", "replay"])
def test_low_memory_holds_one_stage_at_a_time(tmp_path, monkeypatch, attention):
    root = write_bundle_with_shared_weights(tmp_path / "shared")
    open_graphs, steps_at_once, mapped_in = set(), [], {}
    load = OnnxruntimeBackend.load

    def loading(self, bundle, graph):
        runner = load(self, bundle, graph)
        close = runner.close_impl
        open_graphs.add(graph)
        runner.close_impl = lambda: (open_graphs.discard(graph), close())
        steps_at_once.append(sum(g == NATIVE_GRAPH or "target" in g for g in open_graphs))
        mapped_in[graph] = is_mapped(root / "unet/weights.bin")
        return runner

    monkeypatch.setattr(OnnxruntimeBackend, "load", loading)
    with FamPipeline.from_pretrained(root, progress=False, low_memory=True) as pipe:
        pipe("a cat", native_attention=attention)
        assert not open_graphs
        assert max(steps_at_once) == (2 if attention == "replay" else 1)
        assert mapped_in[NATIVE_GRAPH] and mapped_in["unet/target-128x128.onnx"]
        assert not mapped_in["text_encoder/model.onnx"]
        assert not mapped_in["vae_decoder/model.onnx"]
        assert not is_mapped(root / "unet/weights.bin")


def is_mapped(file: Path) -> bool:
    """Whether this process maps `file`; other tests may have left bundles of theirs."""
    return str(file) in Path("/proc/self/maps").read_text()


def write_bundle_with_shared_weights(root: Path) -> Path:
    """A plain bundle with a tensor in ``unet/weights.bin``."""
    import onnx
    from onnx.external_data_helper import set_external_data

    from tests.runtime.fake_bundle import refresh_manifest

    write_bundle(root)
    (root / "unet/weights.bin").write_bytes(bytes(8))
    (root / "unet/weights.json").write_text("{}\n")
    for name in (NATIVE_GRAPH, "unet/target-128x128.onnx"):
        model = onnx.load(root / name)
        tensor = next(t for t in model.graph.initializer if t.name == "i0")
        set_external_data(tensor, "weights.bin", 0, 8)
        tensor.ClearField("raw_data")
        (root / name).write_bytes(model.SerializeToString())
    refresh_manifest(root)
    return root
