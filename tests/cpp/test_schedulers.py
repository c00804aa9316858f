"""The C++ runtime's sampling plans against the Python runtime's, bit for bit."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_runtime.bundle.manifest import NOISE_SCHEDULE_DEFAULTS
from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers import SAMPLERS, NoiseSchedule, SamplingPlan, make_plan
from tests.cpp.probe import CppError, Probe

Config = dict[str, Any]
Outcome = bytes | tuple[str, str]
"""A plan as bytes, or the class and the text of an error."""

SEED = int(os.environ.get("FAM_PLAN_SEED", "1"))
RANDOM_PLANS = int(os.environ.get("FAM_RANDOM_PLANS", "3000"))
TRAIN_TIMESTEPS = int(os.environ.get("FAM_PLAN_TRAIN_TIMESTEPS", "60"))
"""Of the schedules whose every number of steps is tried; 1000 takes a minute."""

_STEP = np.dtype(
    [
        ("timestep", "<f8"),
        ("fm_index", "<i8"),
        ("coefficients64", "<f8", 9),
        ("coefficients", "<f4", 9),
        ("needs_noise", "u1"),
    ]
)


class Plans:
    """The C++ runtime's plans, read through a file of `folder`."""

    def __init__(self, probe: Probe, folder: Path) -> None:
        self._probe = probe
        self._path = folder / "plan"

    def __call__(self, name: str, schedule: Config, num_inference_steps: int) -> Outcome:
        try:
            self._probe.ask(
                "schedulers.plan",
                name=name,
                schedule=schedule,
                num_inference_steps=num_inference_steps,
                path=str(self._path),
            )
        except CppError as error:
            return error.kind, error.text
        return self._path.read_bytes()


@pytest.fixture
def plans(probe: Probe, tmp_path: Path) -> Plans:
    return Plans(probe, tmp_path)


def bytes_from(plan: SamplingPlan) -> bytes:
    """As the probe writes it."""
    steps = np.empty(len(plan.steps), dtype=_STEP)
    for row, step in zip(steps, plan.steps, strict=True):
        row["timestep"], row["fm_index"] = step.timestep, step.fm_index
        row["coefficients64"], row["coefficients"] = step.coefficients64, step.coefficients
        row["needs_noise"] = step.needs_noise
    head = np.array([plan.initial_signal, plan.initial_noise, plan.init_noise_sigma], dtype="<f8")
    return head.tobytes() + steps.tobytes()


def python_plan(name: str, schedule: Config, num_inference_steps: int) -> Outcome:
    """The same of the Python runtime."""
    try:
        with np.errstate(all="ignore"):
            read = NoiseSchedule.from_config(schedule)
            return bytes_from(make_plan(name, read, num_inference_steps))
    except InvalidRequest as error:
        return type(error).__name__, str(error)


def explained(outcome: Outcome) -> Any:
    """For a message: the numbers of a plan."""
    if isinstance(outcome, tuple):
        return outcome
    return np.frombuffer(outcome[:24], dtype="<f8"), np.frombuffer(outcome[24:], dtype=_STEP)


def assert_alike(plans: Plans, name: str, schedule: Config, steps: int) -> Outcome:
    expected, actual = python_plan(name, schedule, steps), plans(name, schedule, steps)
    if actual != expected:
        pytest.fail(
            f"{name}, {steps} steps, {schedule}:\n{explained(actual)}\nnot\n{explained(expected)}"
        )
    return actual


def random_schedule(generator: random.Random) -> Config:
    """Every key of a manifest, in the ranges that its reader lets through."""
    total = generator.choice((1000, 1000, generator.randint(2, 60), generator.randint(2, 1500)))
    start = generator.choice((0.0001, 0.00085, generator.uniform(0, 0.01)))
    schedule = dict(NOISE_SCHEDULE_DEFAULTS) | {
        "num_train_timesteps": total,
        "beta_start": start,
        "beta_end": generator.choice((0.012, 0.02, generator.uniform(0, 0.2))),
        "beta_schedule": generator.choice(("linear", "scaled_linear", "squaredcos_cap_v2")),
        "rescale_betas_zero_snr": generator.random() < 0.3,
        "prediction_type": generator.choice(("epsilon", "v_prediction", "sample")),
        "timestep_spacing": generator.choice((None, "leading", "linspace", "trailing")),
        "steps_offset": generator.choice((0, 0, 1, generator.randint(0, total))),
        "set_alpha_to_one": generator.random() < 0.5,
        "final_sigmas_type": generator.choice(("zero", "sigma_min")),
        "use_karras_sigmas": generator.random() < 0.4,
        "lower_order_final": generator.random() < 0.5,
        "euler_at_final": generator.random() < 0.3,
        "lambda_min_clipped": generator.choice((None, None, -5.1, generator.uniform(-8, 8))),
        "original_inference_steps": generator.choice((50, 50, generator.randint(1, total + 5))),
        "timestep_scaling": generator.choice((10.0, 10.0, generator.uniform(1e-6, 100), 1e6)),
    }
    if generator.random() < 0.25:
        schedule["trained_betas"] = trained_betas(generator, total)
    return schedule


def trained_betas(generator: random.Random, total: int) -> list[float]:
    kind = generator.choice(("any", "any", "tiny", "edges"))
    if kind == "any":
        return [generator.uniform(1e-5, 0.03) for _ in range(total)]
    if kind == "tiny":  # alpha-bar stays where it is over many timesteps
        return [generator.uniform(1e-6, 2e-4)] + [generator.uniform(1e-9, 1e-7)] * (total - 1)
    return [generator.choice((0.0, 1.0, 1e-8, 0.5)) for _ in range(total)]


def few_or_many(generator: random.Random, total: int) -> int:
    """A number of steps: mostly usual, sometimes any, sometimes out of range."""
    choice = generator.random()
    if choice < 0.5:
        return generator.randint(1, min(total, 30))
    if choice < 0.95:
        return generator.randint(1, min(total, 60))
    return generator.choice((total, total + 1, 0, -3, 2**40))


def test_plans_of_random_schedules_equal_the_python_runtimes(plans: Plans) -> None:
    generator = random.Random(SEED)
    seen: Counter[str] = Counter()
    for _ in range(RANDOM_PLANS):
        schedule = random_schedule(generator)
        name = generator.choice(tuple(SAMPLERS))
        steps = few_or_many(generator, schedule["num_train_timesteps"])
        outcome = assert_alike(plans, name, schedule, steps)
        seen[name if isinstance(outcome, bytes) else outcome[1].split(" | ")[0]] += 1
    assert all(seen[name] > RANDOM_PLANS / 30 for name in SAMPLERS), seen
    assert len(seen) >= len(SAMPLERS) + 7, "the schedules must meet the refusals, too"


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_every_number_of_steps(plans: Plans, name: str, spacing: str) -> None:
    schedule = dict(NOISE_SCHEDULE_DEFAULTS) | {
        "num_train_timesteps": TRAIN_TIMESTEPS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": spacing,
        "original_inference_steps": TRAIN_TIMESTEPS // (1 if spacing == "linspace" else 2),
    }
    for steps in range(TRAIN_TIMESTEPS + 2):
        assert_alike(plans, name, schedule, steps)


def test_uneven_strides_of_1000_timesteps(plans: Plans) -> None:
    """Of 1000 timesteps, which are no multiple of most numbers of steps."""
    for spacing in ("linspace", "trailing"):
        schedule = dict(NOISE_SCHEDULE_DEFAULTS) | {"timestep_spacing": spacing}
        for steps in range(1, 1001, 37):
            assert_alike(plans, "euler", schedule, steps)
            assert_alike(plans, "dpm++2m", schedule, steps)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("total", [6, 60, 200])
def test_karras_levels_at_zero_terminal_snr(plans: Plans, name: str, total: int) -> None:
    """Small last betas: the last sigma, diffusers' 4096, lies below its neighbours."""
    schedule = dict(NOISE_SCHEDULE_DEFAULTS) | {
        "num_train_timesteps": total,
        "trained_betas": [0.01] * (total - 2) + [2e-6, 2e-6],
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "use_karras_sigmas": True,
    }
    read = NoiseSchedule.from_config(schedule)
    assert read.sigmas[-3] > read.sigmas[-1] and read.sigmas[-2] > read.sigmas[-1]
    for spacing in (None, "leading", "trailing"):
        for steps in (1, 2, 3, 4, 14, 15, 16, 50):
            assert_alike(plans, name, schedule | {"timestep_spacing": spacing}, steps)


REFUSED: list[tuple[str, Config, int]] = [
    ("plms", {}, 5),
    ("it's \x07", {}, 5),
    ("", {}, 5),
    *((name, {}, steps) for name in SAMPLERS for steps in (0, -1, 1001, 2**62)),
    ("ddim", {"num_train_timesteps": 1}, 1),
    ("ddim", {"trained_betas": [0.1]}, 1),
    ("ddim", {"trained_betas": []}, 1),
    ("ddim", {"trained_betas": [0.1, 1.0, 0.3]}, 1),
    ("ddim", {"trained_betas": [0.1, 0.2, 0.0]}, 1),
    ("ddim", {"trained_betas": [1e-9, 1e-9, 1e-9]}, 1),
    ("ddim", {"trained_betas": [0.9999999] * 30}, 1),
    ("ddim", {"trained_betas": [1e-4, 1e-9, 1e-9], "rescale_betas_zero_snr": True}, 1),
    ("ddim", {"beta_schedule": "sigmoid"}, 1),
    ("ddim", {"prediction_type": "flow"}, 1),
    ("ddim", {"timestep_spacing": "log"}, 1),
    ("ddim", {"final_sigmas_type": "one"}, 1),
    ("ddim", {"timestep_spacing": "log", "prediction_type": "flow"}, 1),
    ("ddim", {"beta_end": 1.0}, 1),
    ("ddim", {"beta_start": 0.0, "beta_schedule": "scaled_linear"}, 1),
    ("ddim", {"steps_offset": 1}, 1000),
    ("ddim", {"steps_offset": 999, "timestep_spacing": "leading"}, 20),
    ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 5),
    ("lcm", {"rescale_betas_zero_snr": True}, 4),
    ("lcm", {"original_inference_steps": 1001}, 4),
    ("lcm", {}, 51),
    ("dpm++2m", {}, 1000),
    ("dpm++2m", {"lambda_min_clipped": 100.0}, 5),
    ("dpm++2m", {"lambda_min_clipped": 100.0, "timestep_spacing": "trailing"}, 5),
    ("dpm++2m", {"lambda_min_clipped": 4.0}, 100),
]


@pytest.mark.parametrize(("name", "changes", "steps"), REFUSED)
def test_refusals_have_the_same_words(plans: Plans, name: str, changes: Config, steps: int) -> None:
    outcome = assert_alike(plans, name, dict(NOISE_SCHEDULE_DEFAULTS) | changes, steps)
    assert isinstance(outcome, tuple)
