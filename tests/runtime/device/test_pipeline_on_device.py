"""The whole pipeline on a fake device gives bit for bit the picture of the CPU backend."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.device import stage_loop
from fam_runtime.device.captured import CAPTURE_AT_USE, KEPT_STAGES, CudaGraphsUnavailable
from fam_runtime.errors import BackendError, Cancelled, NumericError
from fam_runtime.methods import METHODS
from fam_runtime.schedulers import SAMPLERS
from tests.runtime.device.conftest import SeenProgress, latents, same

LIBRARIES = {
    "tensorrt-like": {"every_output": True, "capturable": True},
    "onnxruntime-like": {"every_output": False, "capturable": False},
}
MODES = ("store", "replay")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_every_method_and_sampler(on_device, on_cpu, library, scheduler):
    device = on_device(**LIBRARIES[library])
    for method in METHODS:
        for mode in MODES:
            options = {
                "method": method,
                "scheduler": scheduler,
                "native_attention": mode,
                "seed": 3,
            }
            assert same(latents(device.pipe, **options), latents(on_cpu(), **options)), options


@pytest.mark.parametrize(
    "kind",
    [
        {"family": "sdxl"},
        {"guidance": False},
        {"guidance": False, "guidance_embedding": True},
        {"family": "sdxl", "dtype": "fp16"},
    ],
)
def test_every_kind_of_bundle(on_device, on_cpu, bundle_root, kind):
    root = bundle_root(**kind)
    device = on_device(root)
    for mode in MODES:
        options = {"native_attention": mode, "scheduler": "euler-a"}
        assert same(latents(device.pipe, **options), latents(on_cpu(root), **options))


def test_pictures_native_twins_and_tiles(on_device, on_cpu):
    device = on_device()
    for method in ("fam", "direct"):
        options = {"method": method, "output_type": "np", "return_native": True, "tile": 16}
        options |= {"height": 128, "width": 256}
        got, expected = (pipe("a red ring", **options) for pipe in (device.pipe, on_cpu()))
        for name in ("images", "latents", "native_images", "native_latents"):
            assert same(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize("mode", MODES)
def test_batches_and_calls_in_a_row(on_device, on_cpu, mode):
    """Buffers grow and are used again, also by smaller batches and for other sizes."""
    device = on_device()
    for options in (
        {"num_inference_steps": 3},
        {"num_images_per_prompt": 3, "pictures_per_batch": 2, "seed": 5},
        {"prompt": ["a cat", "a dog"], "pictures_per_batch": 2, "scheduler": "euler-a"},
        {"height": 128, "width": 256, "num_inference_steps": 6},
        {"prompt": "another", "seed": 9, "scheduler": "lcm"},
        {"method": "fm"},
        {"num_images_per_prompt": 3, "pictures_per_batch": 2, "seed": 6},
    ):
        options = {"prompt": "a red ring", "native_attention": mode, **options}
        assert same(latents(device.pipe, **options), latents(on_cpu(), **options)), options


def test_calls_that_differ_in_memory_alone_share_no_graph(on_device, on_cpu):
    """As many steps of the same graphs, in another order of slots."""
    device = on_device()
    for options in (
        {"native_attention": "store", "num_images_per_prompt": 2, "pictures_per_batch": 2},
        {"method": "fm"},  # whose graph reads the first slot of the taps at every step
        {"native_attention": "store"},
        {"native_attention": "store", "scheduler": "euler-a"},
        {"native_attention": "replay"},
        {"native_attention": "store", "scheduler": "lcm"},
    ):
        assert same(latents(device.pipe, **options), latents(on_cpu(), **options)), options


@pytest.mark.parametrize("watched", [False, True])
def test_a_second_call_replays_cuda_graphs(on_device, on_cpu, watched):
    device = on_device(progress=SeenProgress() if watched else None)
    api, steps = device.api, 5
    first = latents(device.pipe, num_inference_steps=steps)
    # One step without a graph, then the graph of all steps, or one per step.
    graphs = 2 * (steps if watched else 1)
    assert len(api.named("begin_capture")) == len(api.named("launch")) == graphs
    uncaptured = [c for c in api.runs("unet/") if not c.captured and "upsample" not in c.graph]
    assert len(uncaptured) == 2
    api.calls.clear()
    second = latents(device.pipe, "a blue square", num_inference_steps=steps, seed=8)
    assert not api.named("begin_capture", "destroy_graph")
    assert len(api.named("launch")) == graphs
    assert all(c.captured for c in api.runs("unet/") if "upsample" not in c.graph)
    options = {"num_inference_steps": steps}
    assert same(first, latents(on_cpu(), **options))
    assert same(second, latents(on_cpu(), "a blue square", seed=8, **options))


def test_a_call_from_another_thread_makes_the_device_current_there(on_device, on_cpu):
    device, made = on_device(), []
    latents(device.pipe)
    thread = threading.Thread(target=lambda: made.append(latents(device.pipe, seed=4)))
    thread.start()
    thread.join(timeout=60)
    assert same(made[0], latents(on_cpu(), seed=4))


def test_by_default_a_single_picture_goes_without_cuda_graphs(on_device, on_cpu):
    """Capturing takes longer than launching once; what comes again is captured."""
    device = on_device(capture_at_use=CAPTURE_AT_USE)
    made = [latents(device.pipe)]
    assert not device.api.named("begin_capture", "launch")
    made.append(latents(device.pipe))
    assert len(device.api.named("begin_capture")) == len(device.api.named("launch")) == 2
    made.append(latents(device.pipe))
    assert len(device.api.named("begin_capture")) == 2
    assert len(device.api.named("launch")) == 4
    assert all(same(one, latents(on_cpu())) for one in made)


def test_cuda_graphs_can_be_turned_off(on_device, on_cpu):
    device = on_device(capture_at_use=0)
    assert same(latents(device.pipe), latents(on_cpu()))
    assert not device.api.named("begin_capture", "launch")
    unet = [c for c in device.api.runs("unet/") if "upsample" not in c.graph]
    assert len(unet) == 2 * 4  # and no step twice


def test_a_failed_capture_is_said_once_and_the_picture_made(on_device, on_cpu):
    device = on_device()
    device.api.refuse_capture = True
    with pytest.warns(CudaGraphsUnavailable, match="could not be captured .* run without") as said:
        assert same(latents(device.pipe), latents(on_cpu()))
        assert same(latents(device.pipe, seed=2), latents(on_cpu(), seed=2))
    assert len([w for w in said if w.category is CudaGraphsUnavailable]) == 1
    assert len(device.api.named("begin_capture")) == 1


def test_a_library_that_fails_while_it_is_captured(on_device, on_cpu):
    """The stream must not be left capturing."""
    device = on_device()
    with device.pipe._pool.borrow(NATIVE_GRAPH) as runner:
        enqueue = runner.device_graph.enqueue

        def refuses(values):
            if device.api.capturing is not None:
                raise BackendError("it allocates while it runs")
            enqueue(values)

        runner.device_graph.enqueue = refuses
        with pytest.warns(CudaGraphsUnavailable, match="it allocates while it runs"):
            assert same(latents(device.pipe), latents(on_cpu()))
    assert device.api.capturing is None


def test_a_library_that_knows_only_after_its_first_run(on_device, on_cpu, monkeypatch):
    device = on_device()
    graph = "tests.runtime.device.fake_device.OnnxGraph.capturable"
    monkeypatch.setattr(graph, property(lambda self: not device.api.runs("unet/")))
    assert same(latents(device.pipe), latents(on_cpu()))
    assert not device.api.named("begin_capture")


def test_few_stages_stay_captured(on_device):
    device = on_device()
    counts = range(2 + KEPT_STAGES, 2, -1)  # the buffers of the first are large enough for all
    for steps in counts:
        latents(device.pipe, num_inference_steps=steps)
    assert len(device.api.graphs) == KEPT_STAGES
    launches = len(device.api.named("launch"))
    captured = len(device.api.named("begin_capture"))
    latents(device.pipe, num_inference_steps=counts[-1])
    assert len(device.api.named("launch")) == launches + 2
    assert len(device.api.named("begin_capture")) == captured


def test_graphs_on_memory_that_was_given_up_are_gone(on_device, on_cpu):
    device = on_device()
    for steps in (2, 5, 2):
        options = {"num_inference_steps": steps}
        assert same(latents(device.pipe, **options), latents(on_cpu(), **options))
    assert device.api.named("destroy_graph")


def test_a_closed_runner_takes_its_graphs_along(on_device, on_cpu):
    """One stage at a time, as where memory is short."""
    device = on_device(low_memory=True)
    for mode in (*MODES, *MODES):
        options = {"native_attention": mode}
        assert same(latents(device.pipe, **options), latents(on_cpu(), **options))
        assert not device.api.graphs


def test_progress_is_told_of_finished_steps_with_the_host_a_little_ahead(on_device):
    progress = SeenProgress()
    device = on_device(progress=progress, capture_at_use=0)
    done, waited = [], []
    advance = progress.advance

    def counted():
        done.append(len(device.api.runs("native")))
        waited.append(len(device.api.named("wait_for_event")))
        advance()

    progress.advance = counted
    latents(device.pipe, num_inference_steps=6)
    assert progress.events == [("native", 6), *["step"] * 6, ("target 128x128", 6), *["step"] * 6]
    ahead = [runs - index - 1 for index, runs in enumerate(done[:6])]
    assert ahead == [stage_loop.STEPS_AHEAD] * 4 + [1, 0]
    assert waited[:6] == list(range(waited[0], waited[0] + 6))  # each after its own event


@pytest.mark.parametrize("mode", MODES)
def test_a_callback_sees_and_replaces_latents(on_device, on_cpu, mode):
    seen = {}

    def changes(pipe, index, timestep, kwargs):
        seen.setdefault(id(pipe), []).append((index, timestep, kwargs["stage"]))
        # In another memory order, as NumPy's operations may leave it.
        odd = index % 2
        return {"latents": np.asfortranarray(kwargs["latents"] * 0.5)} if odd else None

    device, cpu = on_device(), on_cpu()
    options = {"callback_on_step_end": changes, "native_attention": mode, "scheduler": "dpm++2m"}
    options |= {"num_images_per_prompt": 2, "pictures_per_batch": 2}
    for _ in range(2):
        assert same(latents(device.pipe, **options), latents(cpu, **options))
    assert seen[id(device.pipe)] == seen[id(cpu)]


def test_interrupts_stop_and_the_next_call_starts_afresh(on_device, on_cpu):
    device = on_device(progress=SeenProgress())
    steps = []

    def stop(pipe, index, timestep, kwargs):
        steps.append(index)
        pipe.interrupt = index == 1

    with pytest.raises(Cancelled):
        latents(device.pipe, callback_on_step_end=stop)
    assert steps == [0, 1]

    progress = device.pipe.progress
    progress.advance = lambda: setattr(device.pipe, "interrupt", True)  # as another thread would
    with pytest.raises(Cancelled):
        latents(device.pipe)
    assert len(device.api.events) == 0
    del progress.advance
    assert same(latents(device.pipe), latents(on_cpu()))


def test_an_interrupt_between_stages_when_nobody_watches(on_device):
    device = on_device()
    launch = device.api.launch

    def launch_and_interrupt(graph):
        thread = threading.Thread(target=lambda: setattr(device.pipe, "interrupt", True))
        thread.start()
        thread.join()
        launch(graph)

    device.api.launch = launch_and_interrupt
    with pytest.raises(Cancelled):
        latents(device.pipe)
    assert not device.api.runs("target")


def test_nan_is_an_error(on_device, bundle_root):
    device = on_device(bundle_root(broken="nan"))
    with pytest.raises(NumericError, match="the native latent"):
        latents(device.pipe)


def test_a_closed_pipeline_opens_the_device_again(on_device, on_cpu):
    device = on_device()
    for _ in range(2):
        assert same(latents(device.pipe), latents(on_cpu()))
        device.pipe.close()
        device.api.assert_empty()
    assert device.api.closed == 2


def test_the_report_says_what_the_device_did(on_device):
    device = on_device()
    report = device.pipe("a red ring", output_type="latent").report
    assert 0 < report["device_buffers"] <= sum(device.api.sizes.values())
    assert set(report["step_seconds"]) == {"native", "target"}
    assert all(seconds > 0 for seconds in report["step_seconds"].values())
