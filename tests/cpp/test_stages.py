"""The two stages of the C++ runtime against Python's: every feed, and every latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from fam_runtime import contract
from fam_runtime.backends.base import Runner
from fam_runtime.backends.place import HostPlace
from fam_runtime.bundle import KernelTables
from fam_runtime.methods import METHODS, resolve_am_strength
from fam_runtime.native_attention import no_native_attention
from fam_runtime.sampler import PictureNoise, Sampling, native_program, target_program
from fam_runtime.schedulers import NoiseSchedule, SamplingPlan, make_plan
from fam_runtime.stage_program import (
    NativeAttention,
    ReplayedAttention,
    StageProgram,
    StageResult,
    StoredAttention,
)
from tests.cpp.probe import Probe
from tests.cpp.stages_fakes import (
    NATIVE_LATENT,
    TAPS,
    TARGET_LATENT,
    FakeNoise,
    FakeStep,
    Floats,
    Folder,
    graph_rows,
    same,
    step_spec,
)

TRAIN = 60
BATCH = 2
SCHEDULERS = ("ddim", "dpm++2m", "euler", "euler-a", "lcm")
SCHEDULE = NoiseSchedule.from_config(
    {
        "num_train_timesteps": TRAIN,
        "beta_start": 0.001,
        "beta_end": 0.05,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "original_inference_steps": 30,
    }
)
RNG = np.random.default_rng(5)
TABLES = KernelTables(
    RNG.standard_normal((TRAIN, TARGET_LATENT[1])).astype(np.float32),
    RNG.standard_normal((TRAIN, TARGET_LATENT[2])).astype(np.float32),
    RNG.random(TRAIN).astype(np.float32),
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@dataclass
class PythonRun:
    """What Python fed, and what came out."""

    native: StageProgram
    target: StageProgram
    trajectory: StageResult
    final: Floats


def conditions() -> dict[str, npt.NDArray[Any]]:
    return {
        contract.PROMPT_EMBEDS: (np.arange(BATCH * 12, dtype=np.float32) * 0.01).reshape(-1, 3, 2),
        contract.GUIDANCE_SCALE: np.asarray(1.5, np.float32),
    }


def reference() -> Floats:
    array = np.random.default_rng(1).standard_normal((BATCH, *TARGET_LATENT))
    return array.astype(np.float32)


def python_run(plan: SamplingPlan, method: str, strength: float, attention: str) -> PythonRun:
    loop = HostPlace().stage_loop()
    sampling = Sampling(plan, PictureNoise([FakeNoise(7 + i) for i in range(BATCH)]))
    steps = [FakeStep("native", step_spec(target=False)), FakeStep("t", step_spec(target=True))]
    native_runner, target_runner = (cast(Runner, step) for step in steps)
    kept = TAPS if attention == "store" else ()
    native = native_program(sampling, native_runner, conditions(), NATIVE_LATENT, kept)
    result = loop.run(native)
    feed: NativeAttention = no_native_attention(target_runner.spec.inputs[-2:], {"B": BATCH})
    if attention == "store":
        feed = StoredAttention(result.taps)
    if attention == "replay":
        feed = ReplayedAttention(native, result.latents, TAPS)
    target = target_program(
        sampling,
        target_runner,
        conditions(),
        reference(),
        METHODS[method],
        strength,
        TABLES,
        feed,
    )
    return PythonRun(native, target, result, np.asarray(loop.run(target).final))


def cpp_run(
    probe: Probe, folder: Folder, plan: SamplingPlan, method: str, strength: float, attention: str
) -> dict[str, Any]:
    told: dict[str, Any] = probe.ask(
        "stages.run",
        folder=str(folder.path),
        batch=BATCH,
        native_graph=graph_rows(step_spec(target=False)),
        target_graph=graph_rows(step_spec(target=True)),
        native_latent=NATIVE_LATENT,
        steps=[
            {
                "timestep": step.timestep,
                "fm_index": step.fm_index,
                "coefficients64": step.coefficients64.tolist(),
                "needs_noise": step.needs_noise,
            }
            for step in plan.steps
        ],
        initial_signal=plan.initial_signal,
        initial_noise=plan.initial_noise,
        init_noise_sigma=plan.init_noise_sigma,
        conditions={name: folder.put(array) for name, array in conditions().items()},
        reference_latent=folder.put(reference()),
        rows=folder.put(TABLES.rows),
        columns=folder.put(TABLES.columns),
        weight=folder.put(TABLES.weight),
        method=method,
        am_strength=strength,
        attention=attention,
    )
    return told


def same_program(told: Mapping[str, Any], program: StageProgram) -> None:
    assert same(told["first_latent"], program.first_latent)
    for kind, arrays in (("constants", program.constants), ("tables", program.tables)):
        assert set(told[kind]) == set(arrays)
        for name, array in arrays.items():
            assert same(told[kind][name], np.asarray(array)), name


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("method", METHODS)
def test_both_stages_to_the_last_bit(
    probe: Probe, folder: Folder, method: str, scheduler: str
) -> None:
    plan = make_plan(scheduler, SCHEDULE, 5)
    strength = resolve_am_strength(method, None, 0.7)
    for attention in ("none",) if strength == 0 else ("store", "replay"):
        expected = python_run(plan, method, strength, attention)
        got = cpp_run(probe, folder, plan, method, strength, attention)
        same_program(got["native"], expected.native)
        same_program(got["target"], expected.target)
        assert len(got["trajectory"]) == len(expected.trajectory.latents)
        for told, latent in zip(got["trajectory"], expected.trajectory.latents, strict=True):
            assert same(told, np.asarray(latent))
        assert same(got["native_final"], np.asarray(expected.trajectory.final))
        assert same(got["target_final"], expected.final)
        assert np.isfinite(expected.final).all()


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_any_number_of_steps(probe: Probe, folder: Folder, steps: int) -> None:
    for scheduler in SCHEDULERS:
        plan = make_plan(scheduler, SCHEDULE, steps)
        expected = python_run(plan, "fam", 0.3, "replay")
        for attention in ("store", "replay"):
            got = cpp_run(probe, folder, plan, "fam", 0.3, attention)
            assert same(got["target_final"], expected.final)
