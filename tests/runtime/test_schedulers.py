"""Every sampler's linear form against the step loop of diffusers' scheduler."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from fam_runtime.contract import StepCoefficient as C
from fam_runtime.schedulers import SAMPLERS, NoiseSchedule, make_plan

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
SD21_V_ZERO_SNR = STABLE_DIFFUSION | {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SPACINGS = ("leading", "trailing", "linspace")
DIFFUSERS_DEFAULTS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
"""LCMScheduler alone has others."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
STEPS = (1, 2, 4, 5, 8, 14, 15, 20, 50)
"""1 to 8 are those of distilled checkpoints: Turbo, Lightning, LCM."""

DRAWN_NOISES = {"euler-a": lambda count: count, "lcm": lambda count: count - 1}
"""How many noises a run of `count` steps draws."""

TOLERANCE = 1e-5
"""Largest difference of final latents over the largest value. diffusers computes coefficients and
latents in float32, ours run in float64 here: 4.3e-6 is the worst seen (v-prediction,
one ancestral step); most cases stay below 1e-6."""
TOLERANCE_ZERO_SNR_EULER = 1e-3
"""sigma starts at 4096 there: diffusers adds and subtracts 4096 eps in float32, whose last bit is
4096 * 4 * 2^-24 = 1e-3. Seen: 5e-4 with one step, less with more."""
TOLERANCE_COSINE = 2e-4
"""The cosine schedule ends at abar = 2e-9, where sigma is 20,000."""


def diffusers_scheduler(name, config):
    diffusers = pytest.importorskip("diffusers")
    if name == "ddim":
        return diffusers.DDIMScheduler.from_config(config | {"clip_sample": False})
    if name == "euler":
        return diffusers.EulerDiscreteScheduler.from_config(config)
    if name == "euler-a":
        return diffusers.EulerAncestralDiscreteScheduler.from_config(config)
    if name == "lcm":
        return diffusers.LCMScheduler.from_config(DIFFUSERS_DEFAULTS | config)
    return diffusers.DPMSolverMultistepScheduler.from_config(
        config | {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    )


def fake_model(latent, timestep):
    """A smooth, bounded, deterministic stand-in for the UNet; mixes neighbours, depends on t."""
    return np.tanh(0.7 * latent + 0.2 * np.roll(latent, 1, axis=-1) - timestep / 1000 + 0.3)


def run_plan(plan, latent, noises, dtype=np.float64):
    """Denoise with the step graph's formulas (no FM); float64 or, as a graph would, float32."""
    latent, previous, noises = latent.astype(dtype), np.zeros_like(latent, dtype), iter(noises)
    for step in plan.steps:
        c = step.coefficients64 if dtype == np.float64 else step.coefficients
        m = fake_model(c[C.MODEL_INPUT_SCALE] * latent, step.timestep).astype(dtype)
        noise = next(noises).astype(dtype) if step.needs_noise else np.zeros_like(latent)
        prediction = c[C.PREDICTION_FROM_LATENT] * latent + c[C.PREDICTION_FROM_OUTPUT] * m
        latent = (
            c[C.NEXT_FROM_LATENT] * latent
            + c[C.NEXT_FROM_OUTPUT] * m
            + c[C.NEXT_FROM_PREVIOUS] * previous
            + c[C.NEXT_FROM_NOISE] * noise
        )
        previous = prediction
    assert next(noises, None) is None, "the plan must use as many noises as diffusers"
    return latent, previous


def run_diffusers(name, scheduler, latent, seed):
    """Denoise with `scheduler.step`; its ancestral noise comes from a seeded torch generator."""
    import torch

    latent = torch.from_numpy(latent.astype(np.float32))
    generator, result = torch.Generator().manual_seed(seed), None
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latent, timestep)
        output = fake_model(scaled.numpy().astype(np.float64), float(timestep))
        output = torch.from_numpy(output.astype(np.float32))
        options = {"generator": generator} if name in DRAWN_NOISES else {}
        result = scheduler.step(output, timestep, latent, **options)
        latent = result.prev_sample
    return latent.numpy()


def compare(name, config, count, dtype=np.float64):
    """Return the largest difference of final latents over the largest value of the oracle's."""
    import torch

    schedule = NoiseSchedule.from_config(config)
    plan = make_plan(name, schedule, count)
    scheduler = diffusers_scheduler(name, config)
    scheduler.set_timesteps(count)
    timesteps = [float(t) for t in scheduler.timesteps]
    np.testing.assert_allclose([s.timestep for s in plan.steps], timesteps, rtol=2e-7, atol=1e-4)
    assert plan.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma), rel=2e-6)

    random = np.random.RandomState(5)
    eps, clean = random.randn(2, 1, 4, 8, 8)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    start = scheduler.add_noise(
        *(torch.from_numpy(a.astype(np.float32)) for a in (clean, eps)), scheduler.timesteps[:1]
    ).numpy()
    ours = plan.initial_signal * clean + plan.initial_noise * eps
    assert np.abs(ours - start).max() <= 1e-6 * np.abs(start).max()

    generator = torch.Generator().manual_seed(9)
    draws = DRAWN_NOISES[name](count) if name in DRAWN_NOISES else 0
    noises = [torch.randn(eps.shape, generator=generator).numpy() for _ in range(draws)]
    expected = run_diffusers(name, scheduler, start, seed=9)
    actual, _ = run_plan(plan, start, noises, dtype)
    return np.abs(actual - expected).max() / np.abs(expected).max()


def skip_what_diffusers_lacks(name, prediction):
    if name == "euler-a" and prediction == "sample":
        pytest.skip("diffusers' ancestral Euler has no sample prediction")


@pytest.mark.parametrize(
    ("name", "spacing", "prediction"), list(product(SAMPLERS, SPACINGS, PREDICTIONS))
)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_sampler_spacing_and_prediction(name, spacing, prediction, offset, record_property):
    worst = 0.0
    for count in STEPS:
        skip_what_diffusers_lacks(name, prediction)
        config = STABLE_DIFFUSION | {
            "timestep_spacing": spacing,
            "prediction_type": prediction,
            "steps_offset": offset,
            "set_alpha_to_one": bool(count % 2),
        }
        error = compare(name, config, count)
        worst = max(worst, error)
        assert error < TOLERANCE, (count, error)
    record_property("worst", float(worst))


@pytest.mark.parametrize(("name", "count"), list(product(SAMPLERS, (1, 3, 7, 30, 61, 333))))
def test_step_counts_that_do_not_divide(name, count):
    """61 is a count where diffusers' trailing spacing has one timestep, -1, too many."""
    if name == "lcm" and count > 50:
        pytest.skip("LCM makes at most the 50 steps of its distillation")
    for spacing in SPACINGS:
        if spacing == "trailing" and count == 61:
            plan = make_plan(
                name,
                NoiseSchedule.from_config(STABLE_DIFFUSION | {"timestep_spacing": spacing}),
                count,
            )
            assert len(plan.steps) == 61 and plan.steps[-1].timestep >= 0
            continue
        assert compare(name, STABLE_DIFFUSION | {"timestep_spacing": spacing}, count) < TOLERANCE


@pytest.mark.parametrize(("name", "count"), list(product(SAMPLERS, (1, 2, 5, 20, 50))))
def test_sd21_v_zero_snr_trailing(name, count):
    tolerance = TOLERANCE_ZERO_SNR_EULER if name.startswith("euler") else TOLERANCE
    assert compare(name, SD21_V_ZERO_SNR, count) < tolerance


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "betas",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": list(np.linspace(0.0005, 0.015, 1000))},
        {},
    ],
    ids=["linear", "cosine", "trained", "defaults"],
)
def test_beta_schedules(name, betas):
    tolerance = TOLERANCE_COSINE if betas.get("beta_schedule") == "squaredcos_cap_v2" else TOLERANCE
    assert compare(name, betas | {"timestep_spacing": "leading"}, 20) < tolerance


@pytest.mark.parametrize("name", SAMPLERS)
def test_spacing_left_out_takes_the_default_of_the_sampler(name):
    assert compare(name, STABLE_DIFFUSION, 10) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "count", "spacing"), list(product(("euler", "dpm++2m"), (1, 5, 20, 50), SPACINGS))
)
@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_karras_sigmas(name, count, spacing, beta_schedule):
    if name == "dpm++2m" and beta_schedule == "squaredcos_cap_v2":
        pytest.skip("our timesteps differ from diffusers' by up to one: see dpmpp_2m.py")
    config = STABLE_DIFFUSION | {
        "use_karras_sigmas": True,
        "timestep_spacing": spacing,
        "beta_schedule": beta_schedule,
    }
    tolerance = TOLERANCE_COSINE if beta_schedule == "squaredcos_cap_v2" else TOLERANCE
    assert compare(name, config, count) < tolerance


@pytest.mark.parametrize(("name", "count"), list(product(("euler", "dpm++2m"), (1, 5, 20))))
def test_final_sigma_min(name, count):
    for karras in (False, True):
        config = STABLE_DIFFUSION | {"final_sigmas_type": "sigma_min", "use_karras_sigmas": karras}
        assert compare(name, config, count) < TOLERANCE


@pytest.mark.parametrize("count", [2, 14, 15, 30])
def test_order_of_the_last_steps(count):
    for lower, euler in product((False, True), (False, True)):
        config = STABLE_DIFFUSION | {
            "final_sigmas_type": "sigma_min",
            "lower_order_final": lower,
            "euler_at_final": euler,
        }
        assert compare("dpm++2m", config, count) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
def test_lambda_min_clipped(spacing):
    config = {
        "beta_schedule": "squaredcos_cap_v2",
        "lambda_min_clipped": -5.1,
        "timestep_spacing": spacing,
    }
    assert compare("dpm++2m", config, 20) < 1e-4


@pytest.mark.parametrize(("name", "prediction"), list(product(SAMPLERS, PREDICTIONS[:2])))
def test_float32_coefficients_suffice(name, prediction):
    """As a graph computes: float32 coefficients, float32 latents."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction, "timestep_spacing": "leading"}
    assert compare(name, config, 50, np.float32) < 2e-5


def test_ancestral_noise_is_used_in_order():
    """Swapping two noises must show, so the comparison above does fix the order."""
    plan = make_plan("euler-a", NoiseSchedule.from_config(STABLE_DIFFUSION), 5)
    noises = list(np.random.RandomState(0).randn(5, 1, 4, 8, 8))
    latent = np.random.RandomState(1).randn(1, 4, 8, 8) * plan.init_noise_sigma
    straight, _ = run_plan(plan, latent, noises)
    swapped, _ = run_plan(plan, latent, [noises[1], noises[0], *noises[2:]])
    assert np.abs(straight - swapped).max() > 1e-3
    assert all(step.needs_noise for step in plan.steps)
    assert plan.steps[-1].coefficients64[C.NEXT_FROM_NOISE] == 0


def perfect_output(prediction, alpha, sigma, clean, eps):
    """What a perfect model says about `alpha clean + sigma eps`, alpha^2 + sigma^2 = 1."""
    return {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * clean,
        "sample": clean,
    }[prediction]


@pytest.mark.parametrize(
    ("name", "spacing", "prediction"),
    list(product([name for name in SAMPLERS if name != "lcm"], SPACINGS, PREDICTIONS)),
)
def test_a_perfect_model_gives_the_clean_latent(name, spacing, prediction):
    """Every prediction is x0 exactly, and deterministic samplers stay on the reference."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction, "timestep_spacing": spacing}
    plan = make_plan(name, NoiseSchedule.from_config(config), 10)
    clean, eps = np.random.RandomState(2).randn(2, 4, 4)
    latent, previous = plan.initial_signal * clean + plan.initial_noise * eps, np.zeros((4, 4))
    for index, step in enumerate(plan.steps):
        c = step.coefficients64
        if name != "ddim" or spacing != "linspace":  # there DDIM leaves the grid
            np.testing.assert_allclose(
                latent, c[C.REFERENCE_SIGNAL] * clean + c[C.REFERENCE_NOISE] * eps, atol=1e-9
            )
        scale = c[C.MODEL_INPUT_SCALE]
        alpha, sigma = c[C.REFERENCE_SIGNAL] * scale, c[C.REFERENCE_NOISE] * scale
        assert math.isclose(alpha**2 + sigma**2, 1, rel_tol=1e-12)
        eps_now = (scale * latent - alpha * clean) / sigma
        m = perfect_output(prediction, alpha, sigma, clean, eps_now)
        prediction_now = c[C.PREDICTION_FROM_LATENT] * latent + c[C.PREDICTION_FROM_OUTPUT] * m
        np.testing.assert_allclose(prediction_now, clean, atol=1e-9)
        sum_of_noises = c[C.NEXT_FROM_NOISE]
        latent = (
            c[C.NEXT_FROM_LATENT] * latent
            + c[C.NEXT_FROM_OUTPUT] * m
            + c[C.NEXT_FROM_PREVIOUS] * previous
        )
        if sum_of_noises:
            # The variance left for the fresh noise is what the next level lacks.
            following = plan.steps[index + 1].coefficients64[C.REFERENCE_NOISE]
            kept = (latent - clean) / eps
            np.testing.assert_allclose(kept**2 + sum_of_noises**2, following**2, rtol=1e-6)
            latent = clean + following * eps
        previous = prediction_now
    np.testing.assert_allclose(latent, clean, atol=1e-9)
