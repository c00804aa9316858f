"""The callback after each step, and stopping a call."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fam_runtime import FamPipeline
from fam_runtime.callback import StepWatcher
from fam_runtime.errors import Cancelled, InvalidRequest
from fam_runtime.progress import NoProgress, ProgressBars
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


def test_callback_sees_every_step_of_both_stages(pipe):
    seen = []

    def callback(pipeline, index, timestep, kwargs):
        assert pipeline is pipe
        seen.append((kwargs["stage"], index, timestep, kwargs["latents"].shape))
        return kwargs

    pipe("a red ring", callback_on_step_end=callback)
    assert [s[:2] for s in seen] == [(s, i) for s in ("native", "target") for i in range(4)]
    assert seen[0][2] == seen[4][2] > seen[1][2]
    assert {s[3] for s in seen} == {(1, 4, 8, 8), (1, 4, 16, 16)}


def test_callback_can_replace_the_latents(pipe):
    def zero(pipeline, index, timestep, kwargs):
        last = kwargs["stage"] == "target" and index == 3
        return {"latents": np.zeros_like(kwargs["latents"])} if last else None

    assert not latents(pipe, callback_on_step_end=zero).any()
    with pytest.raises(InvalidRequest, match="latents of another shape"):
        latents(pipe, callback_on_step_end=lambda *_: {"latents": np.zeros((1, 4, 2, 2))})


def test_interrupt_stops(pipe):
    steps = []

    def stop(pipeline, index, timestep, kwargs):
        steps.append(index)
        pipeline.interrupt = index == 1

    with pytest.raises(Cancelled, match="was stopped"):
        pipe("a red ring", callback_on_step_end=stop)
    assert steps == [0, 1]
    assert not pipe.interrupt
    assert pipe("a red ring").images  # the next call starts afresh


def test_an_interrupt_before_the_first_step_stops_too(pipe):
    steps = []
    pipe.interrupt = True  # as another thread does while the call begins
    with pytest.raises(Cancelled, match="was stopped"):
        pipe("a red ring", callback_on_step_end=lambda *arguments: steps.append(arguments))
    assert steps == []
    assert not pipe.interrupt
    pipe.interrupt = True
    with pytest.raises(InvalidRequest):
        pipe("")
    assert not pipe.interrupt


def test_latents_of_a_callback_are_a_copy_and_count_when_returned(pipe):
    plain = latents(pipe)

    def scribble(pipeline, index, timestep, kwargs):
        kwargs["latents"][:] = 0

    assert np.array_equal(latents(pipe, callback_on_step_end=scribble), plain)

    def scribble_and_return(pipeline, index, timestep, kwargs):
        kwargs["latents"][:] = 0
        return kwargs if kwargs["stage"] == "target" and index == 3 else None

    assert not latents(pipe, callback_on_step_end=scribble_and_return).any()


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (3, "no dictionary .* got 'int'"),
        (np.zeros(3), "no dictionary .* got 'ndarray'"),
        ({"latents": "x"}, "latents that are no numbers"),
    ],
)
def test_what_a_callback_returns_is_checked(pipe, returned, text):
    with pytest.raises(InvalidRequest, match=text):
        pipe("a red ring", callback_on_step_end=lambda *_: returned)


def test_how_closely_steps_are_watched(pipe):
    """A device does a stage in one piece where nobody looks."""

    class Own:
        start = advance = close = None  # anybody's progress, which says nothing of itself

    def watches(progress, callback=None):
        return StepWatcher(pipe, pipe.backend, progress, callback).watches

    assert watches(NoProgress()) == "stages"
    assert watches(ProgressBars()) == ("steps" if sys.stderr.isatty() else "stages")
    assert watches(ProgressBars(force=True)) == watches(Own()) == "steps"
    assert watches(NoProgress(), lambda *_: None) == "latents"
