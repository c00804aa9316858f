"""What the stages of the C++ runtime are fed, and where it lies, against Python's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_runtime.bundle import NATIVE_GRAPH, Manifest
from fam_runtime.bundle.manifest import PixelSize
from fam_runtime.conditions import stage_conditions, texts_to_encode
from fam_runtime.device.buffer_plan import plan_buffers
from fam_runtime.errors import FamError
from fam_runtime.methods import METHODS, method_named, resolve_am_strength, skip_residual_weight
from fam_runtime.native_attention import (
    NATIVE_ATTENTION_MODES,
    all_tap_names,
    choose_native_attention,
    stored_bytes,
    tap_specs,
)
from fam_runtime.prompt import TextEmbedding
from fam_runtime.request import PictureRequest
from fam_runtime.sampler import check_finite
from fam_runtime.stage_program import StageShape
from tests.cpp.probe import CppError, Probe
from tests.cpp.stages_fakes import Folder, graph_rows, same, spec_rows
from tests.runtime.fake_bundle import write_bundle

RNG = np.random.default_rng(5)
ATTENTIONS = ("none", "store", "replay")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def error_of(kind: type[FamError], call: Callable[[], object]) -> str:
    """The text of the error that `call` raises."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# ---- Methods -------------------------------------------------------------------------------------


def test_methods_are_the_same_table(probe: Probe) -> None:
    expected = [
        {"name": name, **vars(method), "needs_native_stage": method.needs_native_stage}
        for name, method in METHODS.items()
    ]
    assert probe.ask("stages.methods") == expected


@pytest.mark.parametrize("name", ["", "FAM", "fam ", "é\n", "x" * 300])
def test_an_unknown_method_is_refused_in_the_same_words(probe: Probe, name: str) -> None:
    expected = error_of(FamError, lambda: method_named(name))
    with pytest.raises(CppError) as caught:
        probe.ask("stages.method_named", name=name)
    assert (caught.value.kind, caught.value.text) == ("InvalidRequest", expected)


@pytest.mark.parametrize("name", [*METHODS, "none"])
@pytest.mark.parametrize(
    "requested", [None, 0.0, -0.0, 1.0, 0.7, 0.1 + 0.2, 1e-7, -0.1, 1.5, 1e300, 5e-324, "nan"]
)
def test_am_strength(probe: Probe, name: str, requested: float | str | None) -> None:
    value = float(requested) if isinstance(requested, str) else requested
    try:
        expected: float | str = resolve_am_strength(name, value, 0.65)
    except FamError as error:
        expected = str(error)
    try:
        got = probe.ask("stages.am_strength", name=name, requested=requested, default=0.65)
    except CppError as error:
        got = error.text
    assert repr(got) == repr(expected)  # which tells 0.0 from -0.0


def test_skip_residual_weight(probe: Probe) -> None:
    for train in (1000, 60):
        for timestep in np.linspace(0, train, 41):
            got = probe.ask(
                "stages.skip_residual_weight", timestep=float(timestep), train_timesteps=train
            )
            assert got == skip_residual_weight(float(timestep), train)


# ---- Buffers -------------------------------------------------------------------------------------


def stage_shapes(
    manifest: Manifest, batch: int, noisy: tuple[bool, ...], attention: str
) -> list[StageShape]:
    """As the pipeline reserves them."""
    target = manifest.targets[0].step
    taps = tap_specs(manifest, target)
    stored = attention == "store"
    native, larger = manifest.graphs[NATIVE_GRAPH], manifest.graphs[target]
    return [
        StageShape("target", larger, batch, noisy, False, taps, 0 if stored else 1),
        StageShape("native", native, batch, noisy, True, taps, len(noisy) if stored else 0),
    ]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"family": "sd"},
        {"family": "sdxl", "dtype": "fp16"},
        {"family": "sdxl", "dtype": "bf16"},
        {"family": "sd", "guidance": False},
        {"family": "sd", "guidance": False, "guidance_embedding": True},
    ],
)
def test_buffers_are_planned_alike(
    probe: Probe, tmp_path: Path, options: dict[str, Any], attention: str
) -> None:
    root = write_bundle(tmp_path / "bundle", **options)
    manifest = Manifest.from_bytes((root / "manifest.json").read_bytes())
    names = all_tap_names(manifest)
    for noisy in ((False,) * 5, (True,) * 5, (True,) * 4 + (False,), (True,), (False,)):
        for batch in (1, 3):
            stages = stage_shapes(manifest, batch, noisy, attention)
            for every_output in (False, True):
                for asked in (stages, stages[:1], stages[1:]):
                    plan = plan_buffers(asked, every_output_bound=every_output)
                    got = probe.ask(
                        "stages.plan",
                        stages=[
                            {
                                "stage": stage.stage,
                                "spec": graph_rows(stage.spec),
                                "batch": batch,
                                "noisy": noisy,
                                "tap_names": names,
                                "attention": attention,
                            }
                            for stage in asked
                        ],
                        every_output_bound=every_output,
                    )
                    assert got["nbytes"] == plan.nbytes
                    assert got["buffers"] == [
                        {
                            "name": buffer.name,
                            "slots": buffer.slots,
                            "shape": list(buffer.shape),
                            "dtype": buffer.dtype,
                            "slot_bytes": buffer.slot_bytes,
                            "nbytes": buffer.nbytes,
                            "owner": buffer.owner,
                            "copied": buffer.copied,
                        }
                        for buffer in plan.buffers
                    ]
            specs = tap_specs(manifest, manifest.targets[0].step)
            assert probe.ask(
                "stages.stored_bytes", specs=spec_rows(specs), batch=batch, steps=len(noisy)
            ) == stored_bytes(specs, {"B": batch}, len(noisy))


@pytest.mark.parametrize("mode", NATIVE_ATTENTION_MODES)
def test_native_attention_is_chosen_alike(probe: Probe, mode: Any) -> None:
    for strength in (0.0, -0.0, 0.5):
        for needed, budget in ((1, 0), (7, 7), (8, 7), (0, 0), (2**62, 2**62 - 1)):
            got = probe.ask(
                "stages.choose_native_attention",
                mode=mode,
                am_strength=strength,
                needed=needed,
                budget=budget,
            )
            assert got == choose_native_attention(mode, strength, needed, budget)


# ---- Conditions ----------------------------------------------------------------------------------

PICTURES = [
    PictureRequest("a", None, 0),
    PictureRequest("b", "", 1),
    PictureRequest("a", "c", 2),
    PictureRequest("é\nx", "c", 3),
]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("guidance", [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("told", ["stage", "native"])
def test_conditions(
    probe: Probe,
    folder: Folder,
    manifest: Manifest,
    family: Any,
    zeros: bool,
    guidance: tuple[bool, bool],
    told: Any,
) -> None:
    model = dataclasses.replace(
        manifest.model,
        family=family,
        guidance=guidance[0],
        guidance_embedding=guidance[1],
        force_zeros_for_empty_prompt=zeros,
    )
    changed = dataclasses.replace(
        manifest,
        model=model,
        native=PixelSize(64, 96),
        size_conditions=told if family == "sdxl" else None,
    )
    embeddings = {text: embedding(family) for text in ("a", "b", "c", "", "é\nx")}
    for pictures in (PICTURES, PICTURES[:1]):
        expected = stage_conditions(changed, pictures, embeddings, 7.3, PixelSize(1024, 1536))
        got = probe.ask(
            "stages.conditions",
            folder=str(folder.path),
            manifest={
                "family": family,
                "guidance": guidance[0],
                "guidance_embedding": guidance[1],
                "force_zeros_for_empty_prompt": zeros,
                "native": (64, 96),
                "size_conditions": changed.size_conditions,
            },
            pictures=[[picture.prompt, picture.negative_prompt] for picture in pictures],
            embeddings={text: told_of(folder, value) for text, value in embeddings.items()},
            guidance_scale=7.3,
            size=(1024, 1536),
        )
        assert got["texts"] == texts_to_encode(changed, pictures)
        assert set(got["feeds"]) == set(expected)
        for name, array in expected.items():
            assert same(got["feeds"][name], array), name


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = write_bundle(tmp_path_factory.mktemp("stages") / "bundle")
    return Manifest.from_bytes((root / "manifest.json").read_bytes())


def embedding(family: str) -> TextEmbedding:
    pooled = RNG.standard_normal((1, 4)).astype(np.float32) if family == "sdxl" else None
    return TextEmbedding(RNG.standard_normal((1, 3, 2)).astype(np.float32), pooled)


def told_of(folder: Folder, value: TextEmbedding) -> dict[str, Any]:
    told = {"tokens": folder.put(value.tokens)}
    if value.pooled is not None:
        told["pooled"] = folder.put(value.pooled)
    return told


# ---- Numbers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("bad", [(), (np.nan,), (np.inf, -np.inf, np.nan)])
def test_check_finite(probe: Probe, folder: Folder, dtype: Any, bad: tuple[float, ...]) -> None:
    array = np.linspace(-3e38, 3e38, 24, dtype=np.float32)
    array[5 : 5 + len(bad)] = bad
    array[0] = 1e-45
    what = {"what": "the native latent", "tensor": folder.put(array), "dtype": dtype}
    if not bad:
        check_finite("the native latent", array, dtype)
        assert probe.ask("stages.check_finite", **what) is None
        return
    expected = error_of(FamError, lambda: check_finite("the native latent", array, dtype))
    with pytest.raises(CppError) as caught:
        probe.ask("stages.check_finite", **what)
    assert (caught.value.kind, caught.value.text) == ("NumericError", expected)
