"""The two stages against a literal loop, and the order in which noise is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from fam_runtime import contract
from fam_runtime.backends.base import Backend
from fam_runtime.bundle import KernelTables
from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import NumericError
from fam_runtime.methods import METHODS
from fam_runtime.native_attention import choose_native_attention, default_memory_budget_bytes
from fam_runtime.noise import noise_source
from fam_runtime.sampler import (
    PictureNoise,
    Sampling,
    native_program,
    run_stage,
    target_program,
)
from fam_runtime.schedulers import NoiseSchedule, make_plan
from fam_runtime.stage_program import ReplayedAttention, StoredAttention, Unwatched

TRAIN = 50
NATIVE, TARGET = (4, 4, 4), (4, 8, 8)
SCHEDULE = NoiseSchedule.from_config(
    {
        "num_train_timesteps": TRAIN,
        "beta_start": 0.001,
        "beta_end": 0.05,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
    }
)
TAPS = ("attention_query.a", "attention_key.a")
TABLES = KernelTables(
    np.full((TRAIN, 8), 0.1, np.float32),
    np.full((TRAIN, 8), 0.1, np.float32),
    np.linspace(1, 0, TRAIN, dtype=np.float32),
)


class NumpyBackend(Backend):
    name = "numpy"

    def load(self, bundle, graph):
        raise NotImplementedError

    def describe(self):
        return {}


class Step:
    """A step graph in NumPy that remembers what it was fed; its "UNet" is `tanh`."""

    def __init__(self, *, overflow=False):
        self.feeds, self.overflow = [], overflow

    def run(self, feeds, outputs):
        self.feeds.append(dict(feeds))
        c, z = feeds[contract.STEP_COEFFICIENTS], feeds[contract.LATENT]
        strength = feeds.get(contract.AM_STRENGTH, np.float32(0))
        tap = feeds[TAPS[0]].mean() if TAPS[0] in feeds else np.float32(0)
        m = np.tanh(c[StepCoefficient.MODEL_INPUT_SCALE] * z) + strength * tap
        prediction = (
            c[StepCoefficient.PREDICTION_FROM_LATENT] * z
            + c[StepCoefficient.PREDICTION_FROM_OUTPUT] * m
        )
        following = (
            c[StepCoefficient.NEXT_FROM_LATENT] * z
            + c[StepCoefficient.NEXT_FROM_OUTPUT] * m
            + c[StepCoefficient.NEXT_FROM_PREVIOUS] * feeds[contract.PREVIOUS_PREDICTION]
            + c[StepCoefficient.NEXT_FROM_NOISE] * feeds[contract.STEP_NOISE]
        )
        if self.overflow:
            following = following * np.inf
        values = {contract.NEXT_LATENT: following, contract.PREDICTION: prediction}
        values |= {name: z * np.float32(0.1) for name in TAPS}
        return {name: values[name] for name in outputs}


class Replaces(Unwatched):
    """Goes on with half of every latent."""

    def after_step(self, stage, index, step, latent):
        return latent * np.float32(0.5)


def sampling(plan, seeds=(1,), observer=None):
    noise = PictureNoise([noise_source("torch-cpu", seed) for seed in seeds])
    return Sampling(plan, noise, Unwatched() if observer is None else observer)


def run_native(shared, runner, taps=()):
    program = native_program(shared, runner, {}, NATIVE, taps)
    return program, run_stage(NumpyBackend(), program)


def run_target(shared, runner, method="fam", strength=0.7, attention=None, reference=None):
    reference = np.zeros((1, *TARGET), np.float32) if reference is None else reference
    program = target_program(
        shared, runner, {}, reference, METHODS[method], strength, TABLES, attention
    )
    return run_stage(NumpyBackend(), program)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++2m", "euler", "euler-a"])
def test_noise_is_drawn_in_the_documented_order(scheduler):
    plan = make_plan(scheduler, SCHEDULE, 3)
    ancestral = scheduler == "euler-a"
    native, target = Step(), Step()
    shared = sampling(plan)
    _, trajectory = run_native(shared, native)
    run_target(shared, target)

    stream = noise_source("torch-cpu", 1)
    first = np.float32(plan.init_noise_sigma) * stream.normal((1, *NATIVE))
    assert np.array_equal(trajectory.latents[0], first)
    for feeds in native.feeds:
        expected = stream.normal((1, *NATIVE)) if ancestral else 0 * first
        assert np.array_equal(feeds[contract.STEP_NOISE], expected)
    epsilon = stream.normal((1, *TARGET))
    for feeds in target.feeds:
        assert np.array_equal(feeds[contract.REFERENCE_NOISE], epsilon)
        if ancestral:
            assert np.array_equal(feeds[contract.STEP_NOISE], stream.normal((1, *TARGET)))


def test_latents_and_predictions_travel_from_step_to_step():
    plan = make_plan("dpm++2m", SCHEDULE, 4)
    native = Step()
    _, trajectory = run_native(sampling(plan), native)
    assert not native.feeds[0][contract.PREVIOUS_PREDICTION].any()
    probe = Step()
    for before, now in zip(native.feeds, native.feeds[1:], strict=False):
        values = probe.run(before, (contract.NEXT_LATENT, contract.PREDICTION))
        assert np.array_equal(values[contract.NEXT_LATENT], now[contract.LATENT])
        assert np.array_equal(values[contract.PREDICTION], now[contract.PREVIOUS_PREDICTION])
    assert len(trajectory.latents) == 4
    assert trajectory.taps == []
    assert [f[contract.TIMESTEP] for f in native.feeds] == [s.timestep for s in plan.steps]
    assert native.feeds[0][contract.TIMESTEP].dtype == np.float32


def test_target_starts_from_the_diffused_reference():
    plan = make_plan("ddim", SCHEDULE, 3)
    reference = np.random.default_rng(0).standard_normal((2, *TARGET)).astype(np.float32)
    target = Step()
    run_target(sampling(plan, seeds=(1, 2)), target, "fm", 0.0, reference=reference)
    c = plan.steps[0].coefficients
    epsilon = target.feeds[0][contract.REFERENCE_NOISE]
    started = c[StepCoefficient.REFERENCE_SIGNAL] * reference
    started = started + c[StepCoefficient.REFERENCE_NOISE] * epsilon
    assert np.allclose(target.feeds[0][contract.LATENT], started, atol=1e-6)
    alone = noise_source("torch-cpu", 2).normal((1, *TARGET))
    assert np.array_equal(epsilon[1:], alone)


@pytest.mark.parametrize("observer", [Unwatched(), Replaces()])
@pytest.mark.parametrize("scheduler", ["dpm++2m", "euler-a"])
def test_replayed_taps_are_the_stored_ones(scheduler, observer):
    plan = make_plan(scheduler, SCHEDULE, 4)
    native, target = Step(), Step()
    shared = sampling(plan, observer=observer)
    program, result = run_native(shared, native, TAPS)
    kept = [dict(taps) for taps in result.taps]
    for attention in (
        StoredAttention(result.taps),
        ReplayedAttention(program, result.latents, TAPS),
    ):
        run_target(shared, target, attention=attention)
    assert result.taps == [None] * 4  # taken out, so that nothing keeps them
    for stored, replayed, taps in zip(target.feeds[:4], target.feeds[4:], kept, strict=True):
        assert all(np.array_equal(stored[name], taps[name]) for name in TAPS)
        assert all(np.array_equal(replayed[name], taps[name]) for name in TAPS)
    with pytest.raises(RuntimeError, match="already handed out"):
        run_target(shared, target, attention=StoredAttention(result.taps))


def test_an_observer_may_change_the_latent():
    plan = make_plan("ddim", SCHEDULE, 3)
    native, target = Step(), Step()
    _, result = run_native(sampling(plan, observer=Replaces()), native)
    run_target(sampling(plan, observer=Replaces()), target)
    for step in (native, target):
        probe = Step()
        for before, now in zip(step.feeds, step.feeds[1:], strict=False):
            following = probe.run(before, (contract.NEXT_LATENT,))[contract.NEXT_LATENT]
            assert np.array_equal(following * np.float32(0.5), now[contract.LATENT])
    for latent, feeds in zip(result.latents, native.feeds, strict=True):
        assert np.array_equal(latent, feeds[contract.LATENT])


def test_nan_is_an_error_in_both_stages():
    plan = make_plan("ddim", SCHEDULE, 2)
    with pytest.raises(NumericError, match="the native latent"):
        run_native(sampling(plan), Step(overflow=True))
    with pytest.raises(NumericError, match="the target latent"):
        run_target(sampling(plan), Step(overflow=True), "fm", 0.0)


@pytest.mark.parametrize(
    ("mode", "strength", "needed", "choice"),
    [
        ("auto", 0.7, 100, "store"),
        ("auto", 0.7, 101, "replay"),
        ("store", 0.7, 1_000, "store"),
        ("replay", 0.7, 1, "replay"),
        ("store", 0.0, 1, "none"),
        ("auto", 0.0, 1_000, "none"),
    ],
)
def test_choice_of_native_attention(mode, strength, needed, choice):
    assert choose_native_attention(mode, strength, needed, 100) == choice


def test_default_budget():
    assert default_memory_budget_bytes() > 1 << 20


def test_feeds_hold_nothing_that_the_graphs_do_not_know():
    plan = make_plan("ddim", SCHEDULE, 1)
    target = Step()
    attention = StoredAttention([{name: np.ones(1, np.float32) for name in TAPS}])
    run_target(sampling(plan), target, attention=attention)
    assert set(target.feeds[0]) == {
        contract.LATENT,
        contract.TIMESTEP,
        contract.STEP_COEFFICIENTS,
        contract.PREVIOUS_PREDICTION,
        contract.STEP_NOISE,
        contract.REFERENCE_LATENT,
        contract.REFERENCE_NOISE,
        contract.FM_KERNEL_ROWS,
        contract.FM_KERNEL_COLUMNS,
        contract.FM_WEIGHT,
        contract.AM_STRENGTH,
        *TAPS,
    }
