"""Calls of the C ABI: cancelling, threads, versions of structs, misuse, memory."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_runtime.bundle import Bundle
from fam_runtime.errors import FamError
from fam_runtime.free_memory import resident_bytes
from fam_runtime.pipeline import FamPipeline
from tests.conftest import Exported
from tests.cpp.library import (
    Event,
    Library,
    LibraryError,
    LibraryPipeline,
    OptionsStruct,
    RequestStruct,
)

PROMPT = "a blue square"
STEPS = 3


@pytest.fixture(scope="module")
def pipeline(library: Library, tiny: Exported) -> Iterator[LibraryPipeline]:
    """A tiny bundle, opened."""
    with library.open(tiny.bundle, num_threads=1) as opened:
        yield opened


def events_of(pipeline: LibraryPipeline, **arguments: Any) -> list[Event]:
    """What the callback of a call is told."""
    told: list[Event] = []

    def note(event: Event) -> bool:
        told.append(event)
        return True

    pipeline.generate(PROMPT, num_inference_steps=STEPS, progress=note, **arguments)
    return told


def test_progress_is_told_in_order_and_to_the_end(pipeline: LibraryPipeline) -> None:
    told = events_of(pipeline)
    phases = list(dict.fromkeys(event.phase for event in told))
    assert phases == ["text", "native", "target", "decode"]
    for phase in phases:
        steps = [event.step for event in told if event.phase == phase]
        totals = {event.total for event in told if event.phase == phase}
        assert totals == {steps[-1]}
        assert steps == list(range(steps[-1] + 1)), phase
    assert all(event.latent is None for event in told)


def test_latents_are_shown_where_they_are_asked_for(
    pipeline: LibraryPipeline, tiny: Exported
) -> None:
    told = events_of(pipeline, watch_latents=1, seed=5)
    shown = [event for event in told if event.phase in ("native", "target") and event.step]
    expected: list[tuple[str, float, Any]] = []

    def note(pipe: Any, index: int, timestep: float, kwargs: dict[str, Any]) -> None:
        expected.append((kwargs["stage"], timestep, kwargs["latents"]))

    pipe = FamPipeline.from_pretrained(tiny.bundle, num_threads=1, progress=False)
    pipe(PROMPT, num_inference_steps=STEPS, seed=5, callback_on_step_end=note)
    assert len(shown) == len(expected) == 2 * STEPS
    for event, (stage, timestep, latents) in zip(shown, expected, strict=True):
        assert (event.phase, event.timestep) == (stage, timestep)
        assert event.latent is not None
        assert np.array_equal(event.latent, latents)


def test_cancelling_at_every_event_leaves_a_pipeline_that_works(pipeline: LibraryPipeline) -> None:
    expected = pipeline.generate(PROMPT, num_inference_steps=STEPS, seed=1).images[0].pixels
    for native_attention in ("store", "replay"):
        count = len(events_of(pipeline, native_attention=native_attention))
        for stop in range(count):
            events = iter(range(count))
            with pytest.raises(LibraryError) as raised:
                pipeline.generate(
                    PROMPT,
                    num_inference_steps=STEPS,
                    native_attention=native_attention,
                    progress=lambda event, events=events, stop=stop: next(events) < stop,  # type: ignore[misc]
                )
            assert raised.value == LibraryError(
                "Cancelled", "the generation was stopped | nothing was written"
            )
        made = pipeline.generate(PROMPT, num_inference_steps=STEPS, seed=1).images[0].pixels
        assert np.array_equal(made, expected)


def test_cancelling_from_another_thread(pipeline: LibraryPipeline) -> None:
    started = threading.Event()

    def note(event: Event) -> bool:
        started.set()
        return True

    def cancel() -> None:
        started.wait(60)
        pipeline.library.c.fam_pipeline_cancel(pipeline.handle)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(cancel)
        with pytest.raises(LibraryError, match="stopped"):
            pipeline.generate(PROMPT, num_inference_steps=500, progress=note)
        done.result()


def test_cancelling_without_a_call_does_nothing(pipeline: LibraryPipeline) -> None:
    pipeline.library.c.fam_pipeline_cancel(pipeline.handle)
    pipeline.generate(PROMPT, num_inference_steps=1)


def test_one_pipeline_refuses_a_second_call(pipeline: LibraryPipeline) -> None:
    refused: list[LibraryError] = []
    events: list[Event] = []

    def call_again(event: Event) -> bool:
        events.append(event)
        for second in (
            lambda: pipeline.generate(PROMPT),
            lambda: pipeline.library.check(pipeline.library.c.fam_pipeline_unload(pipeline.handle)),
        ):
            with pytest.raises(LibraryError) as raised:
                second()
            refused.append(raised.value)
        return True

    pipeline.generate(PROMPT, num_inference_steps=1, progress=call_again)
    assert len(refused) == 2 * len(events) > 0, "what fails in a callback is not seen here"
    assert {error.kind for error in refused} == {"Busy"}
    assert "another picture" in refused[0].text


def test_two_pipelines_in_two_threads(library: Library, tiny: Exported) -> None:
    def make(seed: int) -> Any:
        with library.open(tiny.bundle, num_threads=1) as own:
            return [own.generate(PROMPT, num_inference_steps=2, seed=seed).images[0].pixels
                    for _ in range(3)]  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(make, (1, 2))
    for made, seed in ((first, 1), (second, 2)):
        expected = make(seed)[0]
        assert all(np.array_equal(rgb, expected) for rgb in made)


def test_errors_belong_to_their_thread(library: Library, tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def fail(name: str) -> str:
        with pytest.raises(LibraryError):
            library.open(tmp_path / name)
        barrier.wait(60)
        text: str = library.c.fam_last_error().decode()
        return text

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fail, ("first", "second"))
    assert "/first" in first
    assert "/second" in second


def test_unloading_frees_graphs_and_nothing_else(pipeline: LibraryPipeline) -> None:
    before = pipeline.generate(PROMPT, num_inference_steps=2, seed=8).images[0].pixels
    pipeline.library.check(pipeline.library.c.fam_pipeline_unload(pipeline.handle))
    after = pipeline.generate(PROMPT, num_inference_steps=2, seed=8).images[0].pixels
    assert np.array_equal(before, after)


def test_load_generate_free_does_not_grow(library: Library, tiny: Exported) -> None:
    def cycle() -> None:
        with library.open(tiny.bundle, num_threads=1) as own:
            own.generate(PROMPT, num_inference_steps=1)

    for _ in range(5):
        cycle()
    gc.collect()
    before = resident_bytes() or 0
    for _ in range(15):
        cycle()
    grown = (resident_bytes() or 0) - before
    assert grown < 8 << 20, f"{grown} bytes in 15 cycles"


def test_the_bundle_is_told(pipeline: LibraryPipeline, tiny: Exported) -> None:
    from tests.cpp.library import InfoStruct

    bundle = Bundle.open(tiny.bundle)
    info = InfoStruct(ctypes.sizeof(InfoStruct))
    c = pipeline.library.c
    assert c.fam_pipeline_bundle(pipeline.handle, ctypes.byref(info)) == 0
    model = bundle.manifest.model
    assert (info.name, info.family, info.dtype) == (
        model.name.encode(), model.family.encode(), model.dtype.encode(),
    )  # fmt: skip
    assert info.hash.decode() == bundle.hash
    assert (info.native_height, info.native_width) == (
        bundle.manifest.native.height, bundle.manifest.native.width,
    )  # fmt: skip
    height, width = ctypes.c_uint32(), ctypes.c_uint32()
    found = []
    for index in range(info.target_count):
        c.fam_pipeline_target(pipeline.handle, index, ctypes.byref(height), ctypes.byref(width))
        found.append((height.value, width.value))
    assert found == [(target.height, target.width) for target in bundle.manifest.targets]
    assert (
        c.fam_pipeline_target(pipeline.handle, 99, ctypes.byref(height), ctypes.byref(width)) == 1
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 5.0},
        {"scale": 2.5},
        {"height": 128},
        {"height": 128, "width": 128},
        {"num_inference_steps": 1001},
        {"guidance_scale": 1001.0},
        {"am_strength": 2.0},
        {"method": "no-such"},
        {"scheduler": "no-such"},
        {"noise": "no-such"},
        {"native_attention": "no-such"},
        {"method": "fm", "am_strength": 0.5},
        {"num_images_per_prompt": 1001},
        {"prompt": " "},
        {"prompt": "a" * 20_001},
        {"seed": 2**64 - 1, "num_images_per_prompt": 2},
        {"tile": 8},
        {"scheduler": "lcm", "num_inference_steps": 51},
    ],
    ids=str,
)
def test_a_call_is_refused_in_the_words_of_python(
    pipeline: LibraryPipeline, tiny: Exported, arguments: dict[str, Any]
) -> None:
    given = {"prompt": PROMPT, **arguments}
    pipe = FamPipeline.from_pretrained(tiny.bundle, progress=False, verify="size")
    with pytest.raises(FamError) as expected:
        pipe(**given)
    with pytest.raises(LibraryError) as raised:
        pipeline.generate(given.pop("prompt"), **given)
    assert raised.value == LibraryError(type(expected.value).__name__, str(expected.value))


def test_structs_of_an_older_program(pipeline: LibraryPipeline) -> None:
    """Half of a request is a whole one of a smaller version."""
    c = pipeline.library.c
    request = RequestStruct(RequestStruct.scale.offset, prompt=PROMPT.encode())
    request.num_inference_steps = 1_000_000  # beyond its size: not there
    result = ctypes.c_void_p()

    assert c.fam_generate(pipeline.handle, ctypes.byref(request), ctypes.byref(result)) == 0
    c.fam_result_free(result)


def test_structs_of_a_newer_program(library: Library, tiny: Exported) -> None:
    class Newer(ctypes.Structure):
        _fields_ = (("known", OptionsStruct), ("later", ctypes.c_uint64))

    handle = ctypes.c_void_p()

    def status_with(later: int) -> int:
        options = Newer(OptionsStruct(ctypes.sizeof(Newer)), later)
        status: int = library.c.fam_pipeline_open(
            str(tiny.bundle).encode(),
            ctypes.cast(ctypes.byref(options), ctypes.POINTER(OptionsStruct)),
            ctypes.byref(handle),
        )
        return status

    assert status_with(1) == 1
    assert b"does not know" in library.c.fam_last_error()
    assert not handle
    assert status_with(0) == 0
    library.c.fam_pipeline_close(handle)


def test_misuse_is_refused_in_words(library: Library, pipeline: LibraryPipeline) -> None:
    c, out = library.c, ctypes.c_void_p()
    request = RequestStruct(0, prompt=PROMPT.encode())
    assert c.fam_generate(pipeline.handle, ctypes.byref(request), ctypes.byref(out)) == 1
    assert b"struct_size" in c.fam_last_error()
    assert c.fam_generate(None, ctypes.byref(request), ctypes.byref(out)) == 1
    assert c.fam_last_error().startswith(b"pipeline is NULL")
    assert c.fam_generate(pipeline.handle, None, ctypes.byref(out)) == 1
    assert c.fam_generate(pipeline.handle, ctypes.byref(request), None) == 1
    assert c.fam_pipeline_open(None, None, ctypes.byref(out)) == 1
    assert c.fam_pipeline_open(b"x", None, None) == 1
    c.fam_pipeline_close(None)
    c.fam_pipeline_cancel(None)
    c.fam_result_free(None)
    assert c.fam_result_image_count(None, 0) == 0
    assert c.fam_result_warning(None, 0) == b""
    with pytest.raises(LibraryError, match="no prompt"):
        pipeline.generate([])
    with pytest.raises(LibraryError, match="UTF-8"):
        pipeline.library.check(
            c.fam_generate(
                pipeline.handle,
                ctypes.byref(RequestStruct(ctypes.sizeof(RequestStruct), prompt=b"a\xff")),
                ctypes.byref(out),
            )
        )


def test_a_backend_that_is_not_there(library: Library, tiny: Exported) -> None:
    for options in ({"backend": "no-such"}, {"provider": "cuda"}, {"backend": "tensorrt"}):
        with pytest.raises(LibraryError) as raised:
            library.open(tiny.bundle, **options)
        assert raised.value.kind in ("InvalidRequest", "BackendError"), raised.value


def test_a_check_is_shown_and_can_be_stopped(library: Library, tiny: Exported) -> None:
    told: list[Event] = []

    def note(event: Event) -> bool:
        told.append(event)
        return True

    library.open(tiny.bundle, progress=note).close()
    manifest = Bundle.unchecked(tiny.bundle).manifest
    total = sum(record.bytes for record in manifest.files.values())
    assert {event.phase for event in told} == {"checking"}
    assert (told[-1].step, told[-1].total) == (total, total)
    with pytest.raises(LibraryError) as raised:
        library.open(tiny.bundle, progress=lambda event: False)
    assert raised.value.kind == "Cancelled"


def test_arguments_that_would_be_ignored_are_refused(pipeline: LibraryPipeline) -> None:
    for arguments in (
        {"prompt": PROMPT, "negative_prompt": ["a"]},
        {"prompt": PROMPT, "tile_overlap": 8},
        {"prompt": PROMPT, "seeds": [1], "draw_seed": 1},
    ):
        with pytest.raises(LibraryError) as raised:
            pipeline.generate(**arguments)
        assert raised.value.kind == "InvalidRequest"
