"""The LCM sampler, step by step against diffusers' LCMScheduler."""

from __future__ import annotations

import numpy as np
import pytest

from fam_runtime.contract import StepCoefficient as C
from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers import NoiseSchedule, make_plan

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
TOLERANCE = 1e-6
"""Of one step, relative to the largest value; diffusers computes it in float32."""


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction_type": "v_prediction"},
        {"original_inference_steps": 40, "timestep_scaling": 0.01},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
    ids=["epsilon", "v", "other distillation", "zero snr"],
)
def test_every_step_against_diffusers(count, options):
    """Both samplers take each step from the same latent, so that no error hides in a chain."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = CONFIG | options
    plan = make_plan("lcm", NoiseSchedule.from_config(config), count)
    oracle = diffusers.LCMScheduler.from_config(config)
    oracle.set_timesteps(count)
    assert [step.timestep for step in plan.steps] == oracle.timesteps.tolist()
    assert [step.needs_noise for step in plan.steps] == [True] * (count - 1) + [False]
    assert plan.init_noise_sigma == oracle.init_noise_sigma
    random = np.random.default_rng(count)
    clean, eps = (random.standard_normal((1, 4, 8, 8), np.float32) for _ in range(2))
    start = oracle.add_noise(
        torch.from_numpy(clean), torch.from_numpy(eps), oracle.timesteps[:1]
    ).numpy()
    ours = plan.initial_signal * clean + plan.initial_noise * eps
    assert np.abs(ours - start).max() <= TOLERANCE * np.abs(start).max()
    for index, (step, t) in enumerate(zip(plan.steps, oracle.timesteps, strict=True)):
        latent, output = (random.standard_normal((1, 4, 8, 8), np.float32) for _ in range(2))
        generator = torch.Generator().manual_seed(index)
        result = oracle.step(torch.from_numpy(output), t, torch.from_numpy(latent), generator)
        noise = (
            torch.randn(latent.shape, generator=torch.Generator().manual_seed(index))
            .double()
            .numpy()
        )
        c = step.coefficients64
        following = (
            c[C.NEXT_FROM_LATENT] * latent
            + c[C.NEXT_FROM_OUTPUT] * output
            + c[C.NEXT_FROM_NOISE] * noise
        )
        expected = result.prev_sample.numpy()
        assert np.abs(following - expected).max() <= TOLERANCE * np.abs(expected).max(), index


def test_the_last_step_of_a_perfect_model_gives_the_clean_latent():
    """Up to c_skip, the consistency function's boundary condition: 6e-6 at timestep 19."""
    plan = make_plan("lcm", NoiseSchedule.from_config(CONFIG), 50)
    step, (clean, eps) = plan.steps[-1], np.random.default_rng(0).standard_normal((2, 4, 4))
    c = step.coefficients64
    latent = c[C.REFERENCE_SIGNAL] * clean + c[C.REFERENCE_NOISE] * eps
    np.testing.assert_allclose(
        c[C.NEXT_FROM_LATENT] * latent + c[C.NEXT_FROM_OUTPUT] * eps, clean, atol=5e-5
    )
    assert c[C.NEXT_FROM_NOISE] == 0


@pytest.mark.parametrize(
    ("options", "count", "text"),
    [
        ({}, 51, "too many steps for LCM .* got 51 .* at most original_inference_steps, 50"),
        ({"original_inference_steps": 2000}, 4, "cannot be .* got 2000 .* num_train_timesteps"),
        ({"rescale_betas_zero_snr": True}, 4, "zero signal-to-noise"),
    ],
)
def test_what_cannot_be(options, count, text):
    with pytest.raises(InvalidRequest, match=text):
        make_plan("lcm", NoiseSchedule.from_config(CONFIG | options), count)
