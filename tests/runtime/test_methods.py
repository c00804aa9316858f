"""The ablation table: METHOD.md's rows, as what is fed to the target graph."""

from __future__ import annotations

import numpy as np
import pytest

from fam_runtime import contract
from fam_runtime.bundle import KernelTables
from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import InvalidRequest
from fam_runtime.methods import METHODS, method_named, resolve_am_strength, skip_residual_weight
from fam_runtime.sampler import first_target_latent, fm_feeds, reference_coefficients
from fam_runtime.schedulers import NoiseSchedule, make_plan

TRAIN = 1000
RNG = np.random.default_rng(0)
TABLES = KernelTables(
    RNG.standard_normal((TRAIN, 6)).astype(np.float32),
    RNG.standard_normal((TRAIN, 8)).astype(np.float32),
    RNG.random(TRAIN).astype(np.float32),
)
SCHEDULE = NoiseSchedule.from_config(
    {
        "num_train_timesteps": TRAIN,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
    }
)
SCHEDULERS = ["ddim", "dpm++2m", "euler", "euler-a"]


def circulant(kernel):
    index = np.arange(len(kernel))
    return kernel[(index[:, None] - index[None]) % len(kernel)]


def modulated(method, latent, reference, step):
    feeds = fm_feeds(METHODS[method], TABLES, step)
    rows = circulant(feeds[contract.FM_KERNEL_ROWS])
    columns = circulant(feeds[contract.FM_KERNEL_COLUMNS])
    return latent + feeds[contract.FM_WEIGHT] * (rows @ (reference - latent) @ columns.T)


def test_fm_off_leaves_the_latent_alone():
    latent, reference = RNG.standard_normal((2, 4, 6, 8)).astype(np.float32)
    for step in make_plan("ddim", SCHEDULE, 5).steps:
        for method in ("direct", "direct-latent", "am"):
            assert np.array_equal(modulated(method, latent, reference, step), latent)


def test_skip_residual_is_a_blend_with_the_reference():
    latent, reference = RNG.standard_normal((2, 4, 6, 8)).astype(np.float32)
    for step in make_plan("ddim", SCHEDULE, 5).steps:
        c1 = ((1 + np.cos(np.pi * (TRAIN - step.timestep) / TRAIN)) / 2) ** 3
        expected = (1 - c1) * latent + c1 * reference
        assert np.allclose(modulated("skip-residual", latent, reference, step), expected, atol=1e-6)


def test_skip_residual_weight_falls_from_one_to_zero():
    weights = [skip_residual_weight(t, TRAIN) for t in range(TRAIN, -1, -50)]
    assert weights[0] == 1
    assert weights[-1] == pytest.approx(0)
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize("method", ["fam", "fm", "swapping", "constant-lf"])
def test_fm_takes_the_row_of_the_timestep(method):
    for step in make_plan("euler", SCHEDULE, 7).steps:
        feeds = fm_feeds(METHODS[method], TABLES, step)
        row = round(step.timestep)
        assert np.array_equal(feeds[contract.FM_KERNEL_ROWS], TABLES.rows[row])
        assert np.array_equal(feeds[contract.FM_KERNEL_COLUMNS], TABLES.columns[row])
        assert feeds[contract.FM_WEIGHT] == TABLES.weight[row]
        assert all(value.dtype == np.float32 for value in feeds.values())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_constant_reference_is_the_clean_latent_in_the_model_convention(scheduler):
    for step in make_plan(scheduler, SCHEDULE, 6).steps:
        c = reference_coefficients(METHODS["constant-lf"], step)
        assert c[StepCoefficient.REFERENCE_NOISE] == 0
        seen_by_model = c[StepCoefficient.REFERENCE_SIGNAL] * c[StepCoefficient.MODEL_INPUT_SCALE]
        assert seen_by_model == pytest.approx(1, rel=1e-6)
        others = list(range(2, 9))
        assert np.array_equal(c[others], step.coefficients[others])
        assert reference_coefficients(METHODS["fam"], step) is step.coefficients


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_starts(scheduler):
    plan = make_plan(scheduler, SCHEDULE, 6)
    clean, noise = RNG.standard_normal((2, 1, 4, 6, 8)).astype(np.float32)
    diffused = plan.initial_signal * clean + plan.initial_noise * noise
    assert np.allclose(first_target_latent(METHODS["fam"], plan, clean, noise), diffused, rtol=1e-6)
    start = first_target_latent(METHODS["direct"], plan, clean, noise)
    assert np.allclose(start, plan.init_noise_sigma * noise, rtol=1e-6)
    assert start.dtype == np.float32


def test_which_methods_need_the_native_stage():
    assert [name for name, m in METHODS.items() if not m.needs_native_stage] == ["direct"]


def test_am_strength():
    assert resolve_am_strength("fam", None, 0.7) == 0.7
    assert resolve_am_strength("fam", 0.2, 0.7) == 0.2
    assert resolve_am_strength("swapping", None, 0.7) == 1.0
    assert resolve_am_strength("fm", 0.0, 0.7) == 0.0
    with pytest.raises(
        InvalidRequest, match=r"swapping fixes am_strength \| got 0.7 \| expected 1.0"
    ):
        resolve_am_strength("swapping", 0.7, 0.7)
    with pytest.raises(InvalidRequest, match="out of range"):
        resolve_am_strength("fam", float("nan"), 0.7)


def test_unknown_method_lists_the_known():
    with pytest.raises(InvalidRequest, match=r"got 'fa' .* fam or fm or am"):
        method_named("fa")


@pytest.mark.parametrize(
    ("name", "kind"), [("ddim", "DDIMScheduler"), ("euler", "EulerDiscreteScheduler")]
)
def test_a_constant_reference_is_the_same_data_here_and_in_the_pytorch_reference(
    monkeypatch, name, kind
):
    """Euler keeps latents divided by sqrt(abar); the model must see z̃_0 itself in both."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from fam_graph.reference import pipeline as reference

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    plan = make_plan(name, NoiseSchedule.from_config(config), 5)
    scheduler = getattr(diffusers, kind).from_config(config)
    scheduler.set_timesteps(5)
    monkeypatch.setattr(reference, "modulate_frequencies_fft", lambda z, clean, k: clean)
    request = reference.ReferenceRequest([""], (8, 8), (16, 16), method="constant-lf")
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    t = scheduler.timesteps[0]
    seen = reference.modulate_latent(request, scheduler, clean, clean, clean, t)
    signal = reference_coefficients(METHODS["constant-lf"], plan.steps[0])
    expected = signal[StepCoefficient.REFERENCE_SIGNAL] * clean.numpy()
    assert np.allclose(seen.numpy(), expected, rtol=1e-5)
    data = scheduler.scale_model_input(seen, t).numpy()
    assert np.allclose(data, clean.numpy(), rtol=1e-5)
