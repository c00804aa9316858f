"""Floors from costs and ceilings, what FM and AM cost as targets grow, and how peaks are chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fam_bench.latency.floor import ceilings, peak_work
from fam_bench.latency.floor.ceilings import Ceilings, best_rate, measure_ceilings
from fam_bench.latency.floor.floor import (
    FLOOR_KINDS,
    Entry,
    Floor,
    bundle_entries,
    floor_of,
    floor_rows,
    kind_cost,
    ratio_to_floor,
    step_terms,
)
from fam_bench.latency.floor.graph_cost import FAMILIES, GraphCost
from fam_bench.latency.floor.growth import terms_of_model
from fam_bench.latency.floor.peak_work import (
    Run,
    Setting,
    Work,
    last_level_cache_bytes,
    onnxruntime_products,
    torch_products,
)
from fam_export.checkpoint import open_checkpoint
from fam_export.graph_factory import GraphFactory, GraphName
from fam_export.onnx_model import traced_graph
from fam_export.options import ExportOptions
from fam_runtime.bundle import Bundle, Target
from fam_runtime.errors import BackendError, InvalidRequest, TargetNotBuilt
from tests.conftest import Exported

COST = GraphCost(
    {**dict.fromkeys(FAMILIES, 0), "convolution": 600, "attention": 400},
    weight_bytes=50,
    input_bytes=20,
    output_bytes=10,
    activation_bytes=9000,
)


def test_the_floor_is_the_longer_of_arithmetic_and_memory() -> None:
    assert floor_of(COST, Ceilings(100.0, 80.0, "")) == Floor(10.0, 10.0, 1.0, "operations")
    assert floor_of(COST, Ceilings(1e4, 4.0, "")) == Floor(20.0, 0.1, 20.0, "bytes")


def test_rows_and_how_far_a_measured_time_is_from_them() -> None:
    (row,) = floor_rows([Entry("target", 2.0, COST)], Ceilings(100.0, 80.0, ""))
    assert row == {
        "kind": "target",
        "scale": 2.0,
        "operations": 1000,
        "operations_by_family": COST.operations_by_family,
        "weight_bytes": 50,
        "io_bytes": 30,
        "activation_bytes": 9000,
        "floor_seconds": 10.0,
        "bound": "operations",
    }
    figure = {"kind": "target", "scale": 2.0, "median_seconds": 25.0, "median_device_seconds": None}
    assert ratio_to_floor(figure, [row]) == 2.5
    assert ratio_to_floor({**figure, "median_device_seconds": 20.0}, [row]) == 2.0
    assert ratio_to_floor({**figure, "scale": 3.0}, [row]) is None


def test_entries_of_a_bundle(tiny: Exported) -> None:
    bundle = Bundle.open(tiny.bundle, verify="size")
    costs = {(entry.kind, entry.scale): entry.cost for entry in bundle_entries(bundle, [2.0], 3)}
    assert [kind for kind, _ in costs] == list(FLOOR_KINDS)
    at_native = {kind for kind, scale in costs if scale == 1.0}
    assert at_native == {"text_encoder", "native", "native_plain"}
    taps = costs["native", 1.0] - costs["native_plain", 1.0]
    heads = bundle.manifest.taps.layers
    assert taps.output_bytes == sum(2 * 2 * 4 * own.token_count * own.channels for own in heads)
    assert (taps.operations, taps.weight_bytes, taps.input_bytes) == (0, 0, 0)
    pixels = bundle.manifest.targets[0].height * bundle.manifest.targets[0].width
    assert costs["vae_decoder", 2.0].output_bytes == 4 * 3 * pixels
    assert all(cost.operations > 0 for cost in costs.values())
    steps, around = [("native", 1.0), ("target", 2.0)], [("text_encoder", 1.0), ("upsample", 2.0)]
    parts = [(3, key) for key in steps] + [(1, key) for key in (*around, ("vae_decoder", 2.0))]
    for count in ("operations", "compulsory_bytes"):
        whole = sum(times * getattr(costs[key], count) for times, key in parts)  # type: ignore[index]
        assert getattr(costs["picture", 2.0], count) == whole
    with pytest.raises(TargetNotBuilt):
        bundle_entries(bundle, [7.0], 3)
    with pytest.raises(InvalidRequest, match="no floor of this kind .* got 'direct'"):
        bundle_entries(bundle, [2.0], 3, ["direct"])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="got 'plain without a target'"):
        kind_cost(bundle, "plain", None)


def test_no_term_of_ours_grows_faster_than_the_unets_own(tiny: Exported) -> None:
    """FM grows as pixels to the power 1.5, AM as 1, the UNet's attention as 2."""
    bundle = Bundle.open(tiny.bundle, verify="size")
    (small,) = bundle.manifest.targets
    large = Target.for_size(2 * small.height, 2 * small.width)
    graphs = GraphFactory(open_checkpoint(tiny.checkpoint), ExportOptions())
    model = ir.to_proto(traced_graph(graphs.definition(GraphName("target", large))).model)
    before, after = step_terms(bundle, small), terms_of_model(model)
    assert terms_of_model(onnx.load(bundle.path(small.step), load_external_data=False)) == before

    def exponent(count: Callable[[GraphCost], int], *names: str) -> float:
        """Growth of terms against pixels."""
        few, many = (sum(count(terms[name]) for name in names) for terms in (before, after))
        return math.log(many / few) / math.log(4)

    def operations(cost: GraphCost) -> int:
        return cost.operations

    def moved(cost: GraphCost) -> int:
        return cost.activation_bytes

    attention = exponent(lambda cost: cost.operations_by_family["attention"], "UNet")
    unet = exponent(operations, "UNet")
    assert 1 < unet < attention <= 2
    assert exponent(operations, "FM") <= 1.5 < attention
    assert exponent(operations, "AM") <= 1 < unet
    assert exponent(operations, "FM", "AM") < unet
    for name in ("FM", "AM"):
        assert exponent(moved, name) <= exponent(moved, "UNet") + 0.01
    # By hand: two circulant products over four channels, and differences and sums of latents.
    height, width = bundle.manifest.latent_size(small)
    latent = 4 * height * width
    assert before["FM"].operations_by_family["matrix_product"] == 2 * latent * (height + width)
    taps = bundle.manifest.taps.layers
    by_hand = sum(2 * 4 * own.token_count**2 * own.channels for own in taps)
    assert before["AM"].operations_by_family["attention"] == by_hand


def busy(title: str, amount: int, seconds: float, made: list[str]) -> Work:
    """Work that takes `seconds` by :func:`told`."""

    def prepare() -> Run:
        made.append(title)
        return lambda: seconds

    return Work(title, amount, prepare)


def told(run: Run) -> float:
    seconds = run()
    assert isinstance(seconds, float)
    return seconds


def test_the_best_rate_of_all_libraries_is_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "PIECE_SECONDS", 0.0)
    made: list[str] = []

    def refuse() -> Run:
        raise NotImplementedError

    first = [busy("a", 100, 2.0, made), Work("no", 1, refuse), busy("b", 20, 0.5, made)]
    # d would take longer than half a second at the rate of c, and is left out.
    second = [busy("c", 10, 0.2, made), busy("d", 26, 0.001, made), busy("e", 20, 0.32, made)]
    assert best_rate([first, second], told) == (62.5, "e")
    assert made == ["a", "b", "c", "e"]
    with pytest.raises(BackendError, match="got 'no: NotImplementedError'"):
        best_rate([[Work("no", 1, refuse)]], told)


@pytest.fixture
def small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(peak_work, "MATRIX_SIZES", {"cpu": (32, 48)})
    monkeypatch.setattr(peak_work, "CHANNELS", 8)
    monkeypatch.setattr(peak_work, "LATENT", 16)
    monkeypatch.setattr(peak_work, "array_bytes", lambda: 1 << 16)


@pytest.mark.usefixtures("small_work")
def test_every_library_does_the_work_that_is_counted() -> None:
    setting = Setting("cpu", "fp32", 1)
    for work in torch_products(setting):
        run = work.prepare()
        with FlopCounterMode(display=False) as counter:
            run()
        assert work.amount == counter.get_total_flops(), work.title
    shapes = []
    for work in onnxruntime_products(setting):
        (output,) = work.prepare()()
        shapes.append(output.shape)
    assert shapes == [(32, 32), (48, 48), (2, 8, 16, 16)]
    for stream in (peak_work.numpy_streams(setting), peak_work.torch_streams(setting)):
        for work in stream:
            work.prepare()()
            passes = {"copy": 2, "triad": 3, "read": 1}[work.title.split()[1]]
            assert work.amount == passes << 16


@pytest.mark.usefixtures("small_work")
def test_ceilings_of_this_machine_say_how_they_were_measured() -> None:
    threads = torch.get_num_threads()
    measured = measure_ceilings("cpu", "fp32", threads + 1)
    assert measured.operations_per_second > 0 and measured.bytes_per_second > 0
    product, stream, where = measured.how.split("; ")
    assert product.startswith(("ONNX Runtime, ", "PyTorch, ", "NumPy, "))
    assert stream.startswith(("PyTorch, ", "NumPy, "))
    assert where == f"fp32, {threads + 1} threads"
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_are_no_ceilings_of_one() -> None:
    with pytest.raises(BackendError, match="measured with PyTorch .* without a GPU"):
        measure_ceilings("cuda", "fp16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_ceilings_of_a_gpu() -> None:
    half, single = measure_ceilings("cuda", "fp16"), measure_ceilings("cuda", "fp32")
    assert half.operations_per_second > single.operations_per_second
    assert half.bytes_per_second > 1e10
    assert half.how.endswith("fp16, the GPU")


def test_all_last_level_caches_count_once(tmp_path: Path) -> None:
    for cpu, pair in enumerate(("0-1", "0-1", "2-3", "2-3")):
        for level, shared, size in (("2", str(cpu), "1024K"), ("3", pair, "32768K")):
            folder = tmp_path / f"cpu{cpu}/cache/index{level}"
            folder.mkdir(parents=True)
            (folder / "level").write_text(f"{level}\n")
            (folder / "shared_cpu_list").write_text(f"{shared}\n")
            (folder / "size").write_text(f"{size}\n")
    (tmp_path / "cpu0/cache/index9").mkdir()  # without files
    assert last_level_cache_bytes(tmp_path) == 2 * (32 << 20)
    assert last_level_cache_bytes(tmp_path / "nothing") == 0
