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
from fam_runtime.native_attention import (
    ReplayedAttention,
    StoredAttention,
    choose_native_attention,
    default_memory_budget_bytes,
)
from fam_runtime.noise import noise_source
from fam_runtime.sampler import (
    PictureNoise,
    StageRun,
    run_native_stage,
    run_target_stage,
)
from fam_runtime.schedulers import NoiseSchedule, make_plan

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


def stage(name, runner, plan, seeds=(1,), after_step=lambda s, i, p, latent: latent):
    noise = PictureNoise([noise_source("torch-cpu", seed) for seed in seeds])
    return StageRun(name, NumpyBackend(), runner, plan, {}, noise, after_step)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++2m", "euler", "euler-a"])
def test_noise_is_drawn_in_the_documented_order(scheduler):
    plan = make_plan(scheduler, SCHEDULE, 3)
    ancestral = scheduler == "euler-a"
    native, target = Step(), Step()
    run = stage("native", native, plan)
    trajectory = run_native_stage(run, NATIVE)
    after = stage("target", target, plan)
    after.noise = run.noise
    zeros = StoredAttention([{}] * 3)
    run_target_stage(after, np.zeros((1, *TARGET), np.float32), METHODS["fam"], 0.7, TABLES, zeros)

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
    trajectory = run_native_stage(stage("native", native, plan), NATIVE)
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
    run = stage("target", target, plan, seeds=(1, 2))
    run_target_stage(run, reference, METHODS["fm"], 0.0, TABLES, StoredAttention([{}] * 3))
    c = plan.steps[0].coefficients
    epsilon = target.feeds[0][contract.REFERENCE_NOISE]
    started = c[StepCoefficient.REFERENCE_SIGNAL] * reference
    started = started + c[StepCoefficient.REFERENCE_NOISE] * epsilon
    assert np.allclose(target.feeds[0][contract.LATENT], started, atol=1e-6)
    alone = noise_source("torch-cpu", 2).normal((1, *TARGET))
    assert np.array_equal(epsilon[1:], alone)


@pytest.mark.parametrize("scheduler", ["dpm++2m", "euler-a"])
def test_replayed_taps_are_the_stored_ones(scheduler):
    plan = make_plan(scheduler, SCHEDULE, 4)
    native = Step()
    trajectory = run_native_stage(stage("native", native, plan), NATIVE, TAPS)
    stored = StoredAttention(trajectory.taps)
    replayed = ReplayedAttention(native, TAPS, plan.steps, trajectory.latents, {})
    for index in range(4):
        kept, again = stored.taps(index), replayed.taps(index)
        assert all(np.array_equal(kept[name], again[name]) for name in TAPS)
    with pytest.raises(RuntimeError, match="already handed out"):
        stored.taps(0)


def test_a_callback_may_change_the_latent_and_replay_follows():
    plan = make_plan("ddim", SCHEDULE, 3)

    def halve(stage_name, index, step, latent):
        return latent * np.float32(0.5)

    native = Step()
    trajectory = run_native_stage(stage("native", native, plan, after_step=halve), NATIVE, TAPS)
    assert np.array_equal(trajectory.latents[1], native.feeds[1][contract.LATENT])
    replayed = ReplayedAttention(native, TAPS, plan.steps, trajectory.latents, {})
    assert np.array_equal(replayed.taps(2)[TAPS[0]], trajectory.taps[2][TAPS[0]])


def test_nan_is_an_error_in_both_stages():
    plan = make_plan("ddim", SCHEDULE, 2)
    with pytest.raises(NumericError, match="the native latent"):
        run_native_stage(stage("native", Step(overflow=True), plan), NATIVE)
    reference = np.zeros((1, *TARGET), np.float32)
    with pytest.raises(NumericError, match="the target latent"):
        run_target_stage(
            stage("target", Step(overflow=True), plan),
            reference,
            METHODS["fm"],
            0.0,
            TABLES,
            StoredAttention([{}] * 2),
        )


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
    run = stage("target", target, plan)
    attention = StoredAttention([{name: np.ones(1, np.float32) for name in TAPS}])
    run_target_stage(
        run, np.zeros((1, *TARGET), np.float32), METHODS["fam"], 0.7, TABLES, attention
    )
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
