"""NoiseSchedule, the plan's bookkeeping, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fam_runtime.contract import StepCoefficient as C
from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers import SAMPLERS, NoiseSchedule, make_plan

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS = [
    STABLE_DIFFUSION,
    {},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": list(np.linspace(0.001, 0.02, 77))},
    STABLE_DIFFUSION | {"num_train_timesteps": 37},
    STABLE_DIFFUSION | {"num_train_timesteps": 100},
    {"num_train_timesteps": 999},
]


def schedule(**options):
    return NoiseSchedule.from_config(STABLE_DIFFUSION | options)


@pytest.mark.parametrize("config", BETAS)
def test_alphas_cumprod_is_that_of_diffusers_bit_for_bit(config):
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.DDIMScheduler.from_config(config)
    ours = NoiseSchedule.from_config(config)
    assert ours.alphas_cumprod.dtype == np.float64
    assert np.array_equal(ours.alphas_cumprod, oracle.alphas_cumprod.numpy().astype(np.float64))
    sigmas = diffusers.EulerDiscreteScheduler.from_config(config).sigmas.numpy()[-2::-1]
    np.testing.assert_allclose(ours.sigmas, sigmas, rtol=3e-7)


@pytest.mark.parametrize("config", BETAS)
def test_alphas_cumprod_at_zero_snr(config):
    """Not to the bit: torch's float32 square root comes from MKL and is not correctly rounded."""
    diffusers = pytest.importorskip("diffusers")
    config = config | {"rescale_betas_zero_snr": True}
    oracle = diffusers.DDIMScheduler.from_config(config).alphas_cumprod.numpy()
    ours = NoiseSchedule.from_config(config).alphas_cumprod
    np.testing.assert_allclose(ours, oracle, rtol=3e-5, atol=0)
    assert ours[-1] == oracle[-1] == 0


def test_first_alpha_bar_without_torch():
    """DDIMScheduler(...).alphas_cumprod[[0, 500, 999]] with these betas, diffusers 0.42."""
    expected = np.float32([0.9991499781608582, 0.27633246779441833, 0.00466009508818388])
    assert np.array_equal(schedule().alphas_cumprod[[0, 500, 999]], expected.astype(np.float64))


def test_schedule_is_frozen_and_owns_its_array():
    alphas = np.linspace(0.99, 0.01, 10)
    ours = NoiseSchedule(alphas)
    alphas[0] = 0
    assert ours.alphas_cumprod[0] == 0.99 and ours.num_train_timesteps == 10
    with pytest.raises(ValueError, match="read-only"):
        ours.alphas_cumprod[0] = 0.5
    plan = make_plan("ddim", ours, 5)
    with pytest.raises(ValueError, match="read-only"):
        plan.steps[0].coefficients[0] = 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_and_dtype_of_coefficients(name):
    plan = make_plan(name, schedule(), 7)
    assert len(plan.steps) == 7
    for step in plan.steps:
        assert step.coefficients.dtype == np.float32 and step.coefficients.shape == (len(C),)
        assert np.array_equal(step.coefficients, step.coefficients64.astype(np.float32))
        assert np.isfinite(step.coefficients).all()
        assert isinstance(step.timestep, float) and isinstance(step.fm_index, int)
        last = step is plan.steps[-1]
        assert step.needs_noise == (name == "euler-a" or (name == "lcm" and not last))
    assert plan.steps[0].coefficients64[C.NEXT_FROM_PREVIOUS] == 0
    assert (plan.initial_signal, plan.initial_noise) == tuple(plan.steps[0].coefficients64[:2])


def test_fm_index_is_the_nearest_timestep_half_to_even():
    plan = make_plan("euler", schedule(num_train_timesteps=4), 3)  # 3, 1.5, 0
    assert [step.timestep for step in plan.steps] == [3, 1.5, 0]
    assert [step.fm_index for step in plan.steps] == [3, 2, 0]
    plan = make_plan("euler", schedule(num_train_timesteps=6), 3)  # 5, 2.5, 0
    assert [step.fm_index for step in plan.steps] == [5, 2, 0]


def test_fm_index_stays_inside_the_table():
    plan = make_plan("euler", schedule(timestep_spacing="leading", steps_offset=1), 1000)
    assert plan.steps[0].timestep == 1000
    assert plan.steps[0].fm_index == 999


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "20", None])
def test_number_of_steps_out_of_range(name, steps):
    with pytest.raises(InvalidRequest, match=r"num_inference_steps is out of range.*1 to 1000"):
        make_plan(name, schedule(), steps)


def test_unknown_scheduler_names_the_known_ones():
    with pytest.raises(InvalidRequest, match=r"unknown scheduler.*heun.*ddim or dpm\+\+2m or eul"):
        make_plan("heun", schedule(), 5)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_too_many_steps_for_dpm(spacing):
    with pytest.raises(InvalidRequest, match=r"too many steps for DPM-Solver\+\+.*fewer steps"):
        make_plan("dpm++2m", schedule(timestep_spacing=spacing), 1000)


def test_too_many_steps_for_ddim_with_offset():
    with pytest.raises(InvalidRequest, match=r"too many steps for DDIM.*at most 999, not 1000"):
        make_plan("ddim", schedule(steps_offset=1), 1000)


def test_epsilon_at_zero_snr():
    zero = schedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(InvalidRequest, match="zero signal-to-noise"):
        make_plan("ddim", zero, 5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "unknown beta_schedule.*sigmoid.*scaled_linear"),
        ({"prediction_type": "flow"}, "unknown prediction_type.*flow.*epsilon or v_prediction"),
        ({"timestep_spacing": "even"}, "unknown timestep_spacing.*even.*leading or trailing"),
        ({"final_sigmas_type": "max"}, "unknown final_sigmas_type"),
        ({"thresholding": True}, "sets thresholding.*True.*remove thresholding"),
        ({"use_beta_sigmas": True}, "sets use_beta_sigmas"),
        ({"timestep_type": "continuous"}, "sets timestep_type"),
        ({"num_train_timesteps": 0}, "num_train_timesteps.*at least 2"),
        ({"trained_betas": [0.1, 1.5]}, "no noise schedule.*0.1.* to 1.5"),
        ({"trained_betas": []}, "no noise schedule"),
        ({"beta_start": -0.1}, "no noise schedule"),
        ({"_class_name": "DDIMScheduler", "clip_sample": True}, "clip_sample.*pixels"),
    ],
)
def test_configs_that_are_refused(config, message):
    with pytest.raises(InvalidRequest, match=message):
        NoiseSchedule.from_config(config)


def test_clip_sample_of_a_scheduler_that_ignores_it_is_no_error():
    NoiseSchedule.from_config({"_class_name": "EulerDiscreteScheduler", "clip_sample": True})


@pytest.mark.parametrize(
    "config",
    [
        {"trained_betas": [1e-9, 0.01, 0.02]},
        {"trained_betas": [1e-9] * 5},
        {"trained_betas": [1e-9] * 5, "rescale_betas_zero_snr": True},
        {"trained_betas": [0.999] * 20},
        {"trained_betas": [0.999] * 20, "rescale_betas_zero_snr": True},
        {"trained_betas": [0.01, 0.02, 1e-12, 1e-12], "rescale_betas_zero_snr": True},
    ],
)
def test_a_timestep_without_noise_or_signal_is_refused(config):
    with pytest.raises(InvalidRequest, match="without noise or without signal .* .alpha-bar from"):
        NoiseSchedule.from_config(config)


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "x"},
        {"thresholding": True},
        {"clip_sample": True, "_class_name": "DDIMScheduler"},
        {"beta_schedule": "x"},
        {"trained_betas": [2.0, 3.0]},
        {"num_train_timesteps": 1},
        {"trained_betas": [1e-9] * 5},
    ],
)
def test_the_advice_is_to_export_again_never_to_edit_the_bundle(config):
    with pytest.raises(InvalidRequest) as caught:
        NoiseSchedule.from_config(config)
    assert "the checkpoint's scheduler_config.json" in caught.value.fix
    assert caught.value.fix.endswith("export again")
