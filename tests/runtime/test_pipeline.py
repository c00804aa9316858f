"""The pipeline on a hand-made bundle: what a call promises, whatever the model."""

from __future__ import annotations

import time
import warnings
import weakref

import numpy as np
import pytest

from fam_runtime import FamPipeline, generation
from fam_runtime.backends.onnxruntime import OnnxruntimeBackend
from fam_runtime.backends.onnxruntime.loader import SessionFromOnnx
from fam_runtime.backends.onnxruntime.runner import OnnxruntimeRunner
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, KernelTables
from fam_runtime.errors import BackendError, InvalidRequest, NumericError, TargetNotBuilt
from fam_runtime.methods import METHODS
from fam_runtime.pipeline import GuidanceCost, NegativePromptUnused
from fam_runtime.prompt import PromptTruncated
from fam_runtime.schedulers import SAMPLERS
from tests.runtime.fake_bundle import write_bundle


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "sd")


@pytest.fixture(scope="module")
def pipe(root):
    with FamPipeline.from_pretrained(root, progress=False) as pipeline:
        yield pipeline


def latents(pipe, prompt="a red ring", **options):
    return pipe(prompt, output_type="latent", **options).latents


def test_makes_a_picture_of_the_smallest_target_by_default(pipe):
    result = pipe("a red ring")
    assert result.images[0].size == (128, 128)
    assert result.images[0].mode == "RGB"
    assert result.latents.shape == (1, 4, 16, 16)
    assert set(result.report["seconds"]) >= {
        "load",
        "text",
        "native",
        "upsample",
        "target",
        "decode",
    }


def test_size_is_height_by_width(pipe):
    assert pipe("a red ring", height=128, width=256).images[0].size == (256, 128)
    assert pipe("a red ring", scale=(2, 4)).images[0].size == (256, 128)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_store_and_replay_are_equal_bit_for_bit(pipe, method, scheduler):
    options = {"method": method, "scheduler": scheduler, "seed": 3}
    stored = latents(pipe, native_attention="store", **options)
    replayed = latents(pipe, native_attention="replay", **options)
    assert np.isfinite(stored).all()
    assert np.array_equal(stored, replayed)


def test_methods_differ(pipe):
    made = {name: latents(pipe, method=name).tobytes() for name in METHODS}
    assert len(set(made.values())) == len(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheduler", ["ddim", "euler-a", "lcm"])
def test_a_picture_does_not_depend_on_its_company(pipe, method, scheduler):
    options = {"method": method, "scheduler": scheduler}
    prompts = ["a red ring", "a cat"]
    together = latents(pipe, prompts, num_images_per_prompt=2, seed=5, **options)
    batched = latents(
        pipe, prompts, num_images_per_prompt=2, seed=5, pictures_per_batch=3, **options
    )
    for index in range(4):
        alone = latents(pipe, prompts[index // 2], seed=5 + index, **options)
        assert np.array_equal(together[index : index + 1], alone)
        # A library may add in another order for another batch; the noise must be the same.
        assert np.allclose(batched[index : index + 1], alone, rtol=1e-4, atol=1e-4)


def test_threads_change_nothing_and_low_memory_at_most_the_last_bits(root, pipe):
    expected = np.asarray(pipe("a red ring", seed=9).images[0]).astype(int)
    for options, tolerance in (
        ({"num_threads": 1}, 0),
        ({"num_threads": 3}, 0),
        ({"low_memory": True}, 1),
    ):
        with FamPipeline.from_pretrained(root, progress=False, **options) as other:
            difference = np.asarray(other("a red ring", seed=9).images[0]) - expected
            assert np.abs(difference).max() <= tolerance


def test_the_target_does_not_depend_on_whether_the_native_picture_was_asked_for(pipe):
    for method in METHODS:
        plain = pipe("a red ring", method=method, scheduler="euler-a", output_type="latent")
        both = pipe(
            "a red ring",
            method=method,
            scheduler="euler-a",
            output_type="latent",
            return_native=True,
        )
        assert np.array_equal(plain.latents, both.latents)
        assert both.native_images.shape == (1, 4, 8, 8)


def test_direct_runs_no_native_stage(pipe):
    result = pipe("a red ring", method="direct")
    assert "native" not in result.report["seconds"]
    assert result.native_latents is None


@pytest.mark.parametrize("method", ["fm", "direct", "direct-latent", "skip-residual"])
def test_methods_without_attention_modulation_keep_no_taps(pipe, method):
    assert pipe("a red ring", method=method).report["native_attention"] == "none"


def test_free_memory_chooses_between_store_and_replay(pipe, monkeypatch):
    needed = pipe("a red ring").report["stored_bytes"]
    assert needed == 4 * 2 * (2 * 64 * 4 * 4)  # steps, tensors, [2B, n, C] float32
    for free, choice in ((needed, "store"), (needed - 1, "replay")):
        monkeypatch.setattr(generation, "default_memory_budget_bytes", lambda _, free=free: free)
        report = pipe("a red ring").report
        assert (report["native_attention"], report["memory_budget_bytes"]) == (choice, free)
        assert report["memory"] is None


def test_fm_tables_can_be_replaced(pipe):
    tables = pipe.bundle.kernel_tables(pipe.bundle.manifest.targets[0])
    off = KernelTables(tables.rows, tables.columns, np.zeros_like(tables.weight))
    assert np.array_equal(
        latents(pipe, method="fm", fm_tables=off), latents(pipe, method="direct-latent")
    )
    result = pipe("a red ring", fm_tables=off)
    assert len(result.settings[0]["fm_tables"]) == 64


def test_seed_none_is_drawn_and_reported(pipe):
    first, second = (pipe("a red ring", seed=None) for _ in range(2))
    seed = first.settings[0]["seed"]
    assert seed != second.settings[0]["seed"]
    assert np.array_equal(latents(pipe, seed=seed), first.latents)


def test_one_seed_per_picture(pipe):
    both = latents(pipe, seed=[7, 3], num_images_per_prompt=2)
    assert np.array_equal(both[1:], latents(pipe, seed=3))
    with pytest.raises(InvalidRequest, match="1 seeds, 2 pictures"):
        latents(pipe, seed=[7], num_images_per_prompt=2)


def test_negative_prompt_and_guidance_matter(pipe):
    plain = latents(pipe)
    assert not np.array_equal(latents(pipe, negative_prompt="a cat"), plain)
    assert not np.array_equal(latents(pipe, guidance_scale=2.0), plain)
    assert np.array_equal(latents(pipe, negative_prompt=""), plain)


def test_guidance_of_one_or_less_is_none_and_says_that_it_pays_double(pipe):
    with pytest.warns(GuidanceCost, match="twice the cost"):
        one = latents(pipe, guidance_scale=1.0)
    with pytest.warns(GuidanceCost):
        assert np.array_equal(latents(pipe, guidance_scale=0.0, negative_prompt=None), one)


def test_a_negative_prompt_without_guidance_is_warned_about(pipe, tmp_path):
    with pytest.warns(NegativePromptUnused, match="no effect: guidance_scale is 1 or less"):
        pipe("a red ring", "a cat", guidance_scale=1.0)
    root = write_bundle(tmp_path / "plain", guidance=False)
    with (
        FamPipeline.from_pretrained(root, progress=False) as other,
        pytest.warns(NegativePromptUnused, match="no effect: .* exported without guidance"),
    ):
        other("a red ring", "a cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe("a red ring", "a cat", guidance_scale=2.0)


def test_bundle_without_guidance(tmp_path):
    root = write_bundle(tmp_path / "plain", guidance=False)
    with FamPipeline.from_pretrained(root, progress=False) as pipe, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(latents(pipe)).all()
        assert np.array_equal(latents(pipe, guidance_scale=1.0), latents(pipe))
        with pytest.raises(InvalidRequest, match=r"exported without guidance .* got 7.5"):
            latents(pipe, guidance_scale=7.5)


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_one_step_in_each_stage(pipe, scheduler):
    stored = latents(pipe, scheduler=scheduler, num_inference_steps=1, native_attention="store")
    replayed = latents(pipe, scheduler=scheduler, num_inference_steps=1, native_attention="replay")
    assert np.isfinite(stored).all()
    assert np.array_equal(stored, replayed)


def test_guidance_as_an_embedding(tmp_path):
    root = write_bundle(tmp_path / "lcm", guidance=False, guidance_embedding=True)
    with FamPipeline.from_pretrained(root, progress=False) as pipe, warnings.catch_warnings():
        warnings.simplefilter("error")
        result = pipe("a red ring", scheduler="lcm", output_type="latent")
        assert result.settings[0]["guidance_scale"] == 7.5  # the bundle's default
        assert not np.array_equal(latents(pipe, scheduler="lcm", guidance_scale=2), result.latents)
        with pytest.warns(NegativePromptUnused, match="no effect: this checkpoint takes the guid"):
            same = latents(pipe, scheduler="lcm", negative_prompt="a cat")
    assert np.array_equal(same, result.latents)


def test_taps_of_an_fp16_bundle_are_float16(tmp_path):
    root = write_bundle(tmp_path / "half", dtype="fp16")
    with FamPipeline.from_pretrained(root, progress=False) as pipe:
        result = pipe("a red ring", native_attention="store")
        assert result.report["stored_bytes"] == 4 * 2 * (2 * 64 * 4 * 2)
        assert np.array_equal(latents(pipe, native_attention="replay"), result.latents)
        assert np.isfinite(latents(pipe, method="fm")).all()


def test_sdxl_no_negative_prompt_is_zeros_and_not_an_empty_text(tmp_path):
    root = write_bundle(tmp_path / "xl", family="sdxl")
    with FamPipeline.from_pretrained(root, progress=False) as pipe:
        assert not np.array_equal(latents(pipe), latents(pipe, negative_prompt=""))
        stored = latents(pipe, native_attention="store")
        assert np.array_equal(stored, latents(pipe, native_attention="replay"))


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_report_counts_the_loading_of_every_graph(root, monkeypatch, low_memory):
    loads = []

    def slow_load(self, bundle, graph, load=OnnxruntimeBackend.load):
        loads.append(graph)
        time.sleep(0.02)
        return load(self, bundle, graph)

    monkeypatch.setattr(OnnxruntimeBackend, "load", slow_load)
    with FamPipeline.from_pretrained(root, progress=False, low_memory=low_memory) as pipe:
        for _ in range(2):
            before, loads[:] = pipe._pool.load_seconds, []
            seconds = pipe("a red ring", num_images_per_prompt=3).report["seconds"]
            assert seconds["load"] == pipe._pool.load_seconds - before
            assert seconds["load"] >= 0.02 * len(loads)
            assert loads.count("vae_decoder/model.onnx") <= 1


def test_taps_are_freed_as_they_are_handed_out(root, monkeypatch):
    made, alive = [], []

    def run(self, feeds, outputs=None, run=OnnxruntimeRunner.run):
        values = run(self, feeds, outputs)
        made.extend(
            weakref.ref(v) for name, v in values.items() if name.startswith("attention_query.")
        )
        if self.graph.startswith("unet/target"):
            alive.append(sum(reference() is not None for reference in made))
        return values

    monkeypatch.setattr(OnnxruntimeRunner, "run", run)
    with FamPipeline.from_pretrained(root, progress=False) as pipe:
        pipe("a red ring", native_attention="store", num_inference_steps=4)
    assert alive == [4, 3, 2, 1]  # the ones in use count


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "   "}, "the prompt is empty"),
        ({"prompt": 3}, "the prompt is not a text .* got 'int'"),
        ({"prompt": []}, "no prompt"),
        ({"prompt": "x" * 30_000}, "the prompt is too long .* got '30000 characters"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        ({"num_inference_steps": 0}, "num_inference_steps is out of range .* got 0"),
        ({"num_inference_steps": -1}, "got -1"),
        ({"num_inference_steps": 1.5}, "got 1.5"),
        ({"num_inference_steps": True}, "got True"),
        ({"num_inference_steps": 101}, "got 101"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"scheduler": "ddpm"}, "unknown scheduler .* got 'ddpm' .* ddim"),
        ({"method": "magic"}, "unknown method .* got 'magic' .* skip-residual"),
        ({"method": "fm", "am_strength": 0.5}, "method fm fixes am_strength"),
        ({"am_strength": 1.5}, "am_strength is out of range .* got 1.5"),
        ({"noise": "dice"}, "unknown noise source .* got 'dice'"),
        ({"native_attention": "guess"}, "unknown native_attention"),
        ({"output_type": "jpeg"}, "unknown output_type"),
        ({"scale": 2, "height": 128, "width": 128}, "both a scale and a size"),
        ({"height": 128}, "half of a size"),
        ({"scale": -1}, "scale is out of range .* got -1"),
        (
            {"height": 130, "width": 128},
            "cannot make this size .* got '130x128 pix.* of 64 pixels",
        ),
        ({"height": 64, "width": 64}, "above the native 64x64 and up to 512x512"),
        ({"scale": 0.5}, "cannot make this size .* got 'scale 0.5 .32x32 pixels.' .* have|has"),
        ({"scale": 9}, "cannot make this size .* up to 512x512 .* the bundle has 128x128"),
        ({"scale": 2.3}, "cannot make this size .* got 'scale 2.3 .147x147"),
        ({"scale": [2, 4]}, r"scale is out of range .* got \[2, 4\] .* a tuple"),
        ({"scale": (2, 4, 2)}, "scale is out of range"),
        ({"scale": 10**400}, "scale is out of range"),
        ({"scale": "2"}, "scale is out of range"),
        ({"height": "128", "width": 128}, "height is out of range .* got '128'"),
        ({"height": 128, "width": 128.0}, "width is out of range"),
        ({"guidance_scale": float("nan")}, "guidance_scale is out of range"),
        ({"guidance_scale": float("inf")}, "guidance_scale is out of range"),
        ({"guidance_scale": -1}, "guidance_scale is out of range .* got -1 .* from 0 to 1000"),
        ({"guidance_scale": 10**400}, "guidance_scale is out of range"),
        ({"guidance_scale": "7"}, "guidance_scale is out of range .* got '7'"),
        ({"guidance_scale": [7]}, "guidance_scale is out of range"),
        ({"am_strength": "1"}, "am_strength is out of range"),
        ({"num_inference_steps": 10**400}, "num_inference_steps is out of range"),
        ({"pictures_per_batch": 1.5}, "pictures_per_batch is out of range"),
        ({"tile": "big"}, "tile is out of range"),
        ({"scheduler": ["ddim"]}, "scheduler is not a text"),
        ({"noise": ["torch-cpu"]}, "noise is not a text"),
        ({"method": ["fam"]}, "method is not a text"),
        ({"seed": 2**64}, "seed is out of range"),
        ({"seed": "x"}, "got 'x'"),
        ({"tile": 3}, "VAE tile is too small"),
        ({"callback_on_step_end": 3}, "callback_on_step_end cannot be called"),
        ({"negative_prompt": ["a", "b"]}, "do not pair up"),
    ],
)
def test_bad_requests_say_what_is_wrong(pipe, options, text):
    with pytest.raises(InvalidRequest, match=text):
        pipe(**{"prompt": "a red ring", **options})


def test_a_size_that_is_not_built_says_how_to_add_it(pipe, root):
    with pytest.raises(TargetNotBuilt) as caught:
        pipe("a red ring", scale=3)
    message = str(caught.value)
    assert "scale 3" in message
    assert "128x128 (scale 2)" in message
    assert f"fam-export --model PATH_TO_fake --scale 3 --output {root}" in message
    with pytest.raises(TargetNotBuilt, match=r"--size 192x256 --output \S*$"):
        pipe("a red ring", height=192, width=256)
    with pytest.raises(TargetNotBuilt, match=r"scale 3x5 .192x320 pixels. .* --scale 3x5 "):
        pipe("a red ring", scale=(3, 5))


def test_a_scale_means_the_same_as_its_size(pipe):
    for scale in (2, 2.0, (2, 2), np.float32(2), 2 + 1e-9):
        assert pipe("a red ring", scale=scale).images[0].size == (128, 128)
    with pytest.raises(InvalidRequest, match="cannot make this size"):
        pipe("a red ring", scale=2.001)


def test_an_over_long_prompt_warns_what_is_cut(pipe):
    with pytest.warns(PromptTruncated, match="does not see: 'the lost end'"):
        pipe("cat " * 75 + "the lost end")


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("fp32", "got '256 of 256 values"),
        ("fp16", r"float16 overflows above 65504.* export with --dtype bf16 or fp32"),
    ],
)
def test_nan_is_an_error_that_says_what_avoids_it(tmp_path, dtype, message):
    root = write_bundle(tmp_path / "nan", broken="nan", dtype=dtype)
    with (
        FamPipeline.from_pretrained(root, progress=False) as pipe,
        pytest.raises(NumericError, match=f"native latent .* {message}"),
    ):
        pipe("a red ring")


def test_bf16_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(SessionFromOnnx, "__call__", lambda self: pytest.fail("loaded"))
    root = write_bundle(tmp_path / "brain", dtype="bf16")
    with pytest.raises(BackendError, match="bf16 .* --dtype fp16 or fp32.* TensorRT"):
        FamPipeline.from_pretrained(root, progress=False)
    with pytest.raises(BackendError, match="cannot run a bundle in bf16"):
        OnnxruntimeBackend().load(Bundle.open(root), NATIVE_GRAPH)


def test_np_output_is_between_0_and_1(pipe):
    images = pipe("a red ring", output_type="np", num_images_per_prompt=2).images
    assert images.shape == (2, 128, 128, 3)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1


def test_closing_frees_and_the_next_call_loads_again(root):
    pipe = FamPipeline.from_pretrained(root, progress=False)
    first = latents(pipe)
    pipe.close()
    assert np.array_equal(latents(pipe), first)
    pipe.close()
