"""Who writes and reads which memory, and what is copied: nothing between the steps of a stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fam_runtime import contract
from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.device.buffer_plan import PER_STEP_INPUTS, plan_buffers
from fam_runtime.errors import BackendError
from fam_runtime.schedulers import NoiseSchedule, make_plan
from fam_runtime.stage_program import StageShape
from tests.runtime.device.conftest import SeenProgress, latents, same
from tests.runtime.fake_bundle import LAYER

STEPS = 5
TARGET_GRAPH = "unet/target-128x128.onnx"
TAPS = contract.tap_names(LAYER, "qk")
MOVES = {"copy_to_device", "copy_to_host", "fill_zero", "allocate", "free"}
DOCUMENT = Path(__file__).parents[3] / "docs/buffer_plan.md"


def recorded(device, **options):
    """Runs of the native and of the target graph, in order, and every call, of a second call."""
    latents(device.pipe, num_inference_steps=STEPS, **options)
    device.api.calls.clear()
    latents(device.pipe, num_inference_steps=STEPS, **options)
    return device.api.runs(NATIVE_GRAPH), device.api.runs(TARGET_GRAPH)


def addresses(runs, name):
    return [run.values[name].address for run in runs]


def within_stages(api):
    """Names of the calls from the first to the last run of each stage."""
    names = []
    for graph in (NATIVE_GRAPH, TARGET_GRAPH):
        at = [i for i, call in enumerate(api.calls) if call.graph == graph]
        if graph == NATIVE_GRAPH:  # a replay's runs belong to the target stage
            at = at[:STEPS]
        names += [call.name for call in api.calls[at[0] : at[-1]]]
    return names


@pytest.mark.parametrize("scheduler", ["dpm++2m", "euler-a"])
@pytest.mark.parametrize("attention", ["store", "replay"])
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("capturable", [False, True])
def test_nothing_is_copied_within_a_stage(on_device, scheduler, attention, watched, capturable):
    progress = SeenProgress() if watched else None
    device = on_device(progress=progress, capturable=capturable, every_output=capturable)
    recorded(device, scheduler=scheduler, native_attention=attention)
    done = within_stages(device.api)
    assert len([name for name in done if name == "run"]) >= 2 * STEPS - 2
    assert not MOVES & set(done)


def test_a_callback_costs_a_download_of_the_latent_and_an_upload_if_it_is_replaced(on_device):
    def replaces(pipe, index, timestep, kwargs):
        return kwargs if index == 1 else None

    device = on_device()
    recorded(device, callback_on_step_end=replaces)
    done = [name for name in within_stages(device.api) if name in MOVES]
    assert done == (["copy_to_host"] * 2 + ["copy_to_device"] + ["copy_to_host"] * 2) * 2


@pytest.mark.parametrize("method", ["fam", "direct"])
def test_uploads_do_not_grow_with_the_steps(on_device, method):
    counts = []
    for steps in (2, 7):
        device = on_device()
        latents(device.pipe, num_inference_steps=steps, method=method)
        counts.append(len(device.api.named("copy_to_device")))
    assert counts[0] == counts[1]


def test_the_target_reads_taps_where_the_native_stage_wrote_them(on_device):
    native, target = recorded(on_device(), native_attention="store")
    for name in TAPS:
        written = addresses(native, name)
        assert addresses(target, name) == written
        assert len(set(written)) == STEPS


@pytest.mark.parametrize("every_output", [False, True])
def test_a_replay_reads_the_trajectory_in_place_and_writes_the_targets_input(
    on_device, every_output
):
    device = on_device(every_output=every_output)
    runs, target = recorded(device, native_attention="replay")
    native, again = runs[:STEPS], runs[STEPS:]
    assert addresses(again, contract.LATENT) == addresses(native, contract.LATENT)
    trajectory = {*addresses(native, contract.LATENT), *addresses(native, contract.NEXT_LATENT)}
    for name in TAPS:
        assert addresses(again, name) == addresses(target, name)
        assert len(set(addresses(target, name))) == 1
    if every_output:
        assert not trajectory & set(addresses(again, contract.NEXT_LATENT))
    else:
        assert all(
            {*run.values} & {contract.NEXT_LATENT, contract.PREDICTION} == set() for run in again
        )
    order = [c.graph for c in device.api.runs() if c.graph in (NATIVE_GRAPH, TARGET_GRAPH)]
    assert order == [NATIVE_GRAPH] * STEPS + [NATIVE_GRAPH, TARGET_GRAPH] * STEPS


def test_without_attention_modulation_the_taps_are_zeros_and_not_kept(on_device):
    device = on_device(every_output=True)
    native, target = recorded(device, method="fm")
    for name in TAPS:
        assert len({*addresses(native, name), *addresses(target, name)}) == 1  # one scratch slot
        assert not device.api.read(target[-1].values[name]).any()
    native, _ = recorded(on_device(every_output=False), method="fm")
    assert not set(TAPS) & set(native[0].values)


def test_latents_and_predictions_take_turns(on_device):
    native, target = recorded(on_device(), native_attention="store")
    for runs, count in ((native, STEPS + 1), (target, 2)):
        read, written = addresses(runs, contract.LATENT), addresses(runs, contract.NEXT_LATENT)
        assert read[1:] == written[:-1]
        assert len({*read, *written}) == count
        before = addresses(runs, contract.PREVIOUS_PREDICTION)
        after = addresses(runs, contract.PREDICTION)
        assert before[1:] == after[:-1]
        assert len({*before, *after}) == 2


def test_rows_of_tables_are_addressed_in_place(on_device):
    device = on_device()
    native, target = recorded(device, scheduler="euler-a")
    bundle = device.pipe.bundle
    schedule = NoiseSchedule.from_config(bundle.manifest.noise_schedule)
    plan = make_plan("euler-a", schedule, STEPS)
    tables = bundle.kernel_tables(bundle.manifest.targets[0])
    expected = {
        contract.TIMESTEP: [np.float32(step.timestep) for step in plan.steps],
        contract.STEP_COEFFICIENTS: [step.coefficients for step in plan.steps],
        contract.FM_KERNEL_ROWS: [tables.rows[step.fm_index] for step in plan.steps],
        contract.FM_KERNEL_COLUMNS: [tables.columns[step.fm_index] for step in plan.steps],
        contract.FM_WEIGHT: [tables.weight[step.fm_index] for step in plan.steps],
    }
    assert set(expected) == PER_STEP_INPUTS
    for name, rows in expected.items():
        for runs in (native, target):
            if name not in runs[0].values:
                continue
            at = addresses(runs, name)
            distance = -(-np.asarray(rows[0]).nbytes // 256) * 256
            assert [address - at[0] for address in at] == [i * distance for i in range(STEPS)]
            for run, row in zip(runs, rows, strict=True):
                assert np.array_equal(device.api.read(run.values[name]), row)
    for runs in (native, target):  # noise of an ancestral sampler: a row for every step
        assert len(set(addresses(runs, contract.STEP_NOISE))) == STEPS


def test_conditions_stay_at_one_address(on_device):
    native, target = recorded(on_device())
    flowing = {contract.LATENT, contract.NEXT_LATENT, contract.PREDICTION, contract.STEP_NOISE}
    flowing |= {contract.PREVIOUS_PREDICTION, *PER_STEP_INPUTS, *TAPS}
    for runs in (native, target):
        for name in set(runs[0].values) - flowing:
            assert len(set(addresses(runs, name))) == 1, name


def test_a_second_call_finds_every_address_again(on_device):
    device = on_device()

    def bound(**options):
        device.api.calls.clear()
        latents(device.pipe, **options)
        runs = device.api.runs(NATIVE_GRAPH) + device.api.runs(TARGET_GRAPH)
        return {
            (run.graph, name, value.address) for run in runs for name, value in run.values.items()
        }

    first = bound()
    assert bound(prompt="another", seed=7, guidance_scale=3.0) == first
    assert bound(height=128, width=256, num_inference_steps=9)  # everything grows
    grown = bound()
    assert grown != first
    assert bound(prompt="another") == grown


def shapes(manifest, steps, *, slots=0, noisy=False):
    target = manifest.graphs[TARGET_GRAPH]
    taps = tuple(spec for spec in target.inputs if spec.name in TAPS)
    noise = (noisy,) * steps
    return [
        StageShape("native", manifest.graphs[NATIVE_GRAPH], 1, noise, True, taps, slots),
        StageShape("target", target, 1, noise, False, taps, 0 if slots else 1),
    ]


def test_the_plan_is_what_is_allocated(on_device, bundle_root):
    for every_output in (True, False):
        for family in ("sd", "sdxl"):
            device = on_device(bundle_root(family=family), every_output=every_output)
            manifest = device.pipe.bundle.manifest
            for options, slots in (
                ({"method": "fm"}, 0),
                ({"native_attention": "replay"}, 0),
                ({"native_attention": "store"}, STEPS),
                ({"native_attention": "store", "scheduler": "euler-a"}, STEPS),
            ):
                stages = shapes(manifest, STEPS, slots=slots, noisy="scheduler" in options)
                plan = plan_buffers(stages, every_output_bound=every_output)
                call = {"output_type": "latent", "num_inference_steps": STEPS, **options}
                report = device.pipe("a red ring", **call).report
                assert report["device_buffers"] == plan.nbytes
                assert device.backend.stage_loop().buffer_bytes == plan.nbytes  # larger each time


def test_the_document_draws_the_plan(bundle_root, on_device):
    """Every buffer of the plan is a row of docs/buffer_plan.md, and the other way round."""
    device = on_device(bundle_root(family="sdxl"))
    stages = shapes(device.pipe.bundle.manifest, STEPS, slots=STEPS)
    plan = plan_buffers(stages, every_output_bound=True)
    rows = {}
    for line in DOCUMENT.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells[1:]
    expected = {}
    for buffer in plan.buffers:
        name = "taps.<tensor>" if buffer.name.startswith("taps.") else buffer.name
        expected[name] = [buffer.owner, buffer.written_by, buffer.read_by, buffer.copied]
    assert {name: cells[1:] for name, cells in rows.items()} == expected
    slots = {name: cells[0] for name, cells in rows.items()}
    for buffer in plan.buffers:
        name = "taps.<tensor>" if buffer.name.startswith("taps.") else buffer.name
        stated = slots[name].split(",")[0].split(" ")[0]
        known = {"T": STEPS, "T+1": STEPS + 1, "1": 1, "2": 2, "N+1": 1}
        assert known[stated] == buffer.slots, name


@pytest.mark.parametrize("fits", [True, False])
def test_what_does_not_fit_is_said_before_the_first_step(on_device, bundle_root, fits):
    """Also where the native stage alone would fit."""
    manifest = on_device().pipe.bundle.manifest
    plan = plan_buffers(shapes(manifest, STEPS), every_output_bound=True)
    device = on_device(total_bytes=plan.nbytes + (16_384 if fits else -256))
    options = {"method": "fm", "num_inference_steps": STEPS}
    if fits:  # the rest is for texts, and for the upsampled latent
        assert np.isfinite(latents(device.pipe, **options)).all()
        return
    with pytest.raises(BackendError) as caught:
        latents(device.pipe, **options)
    message = str(caught.value)
    assert "the buffers of this call do not fit on a device that is none" in message
    assert "native_attention='replay', fewer pictures_per_batch" in message
    assert not device.api.runs("unet/")


def test_the_devices_memory_chooses_between_store_and_replay(on_device, on_cpu):
    """The buffers of the last call are there for the next one: it chooses alike."""
    options = {"num_inference_steps": 20}
    for total, choice in ((1 << 30, "store"), (300_000, "replay")):
        device = on_device(total_bytes=total)
        for _ in range(3):
            result = device.pipe("a red ring", output_type="latent", **options)
            assert result.report["native_attention"] == choice
            assert result.report["memory_budget_bytes"] == total // 4
            assert same(result.latents, latents(on_cpu(), **options))
