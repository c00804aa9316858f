"""Which training timesteps a run of n steps visits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fam_runtime.schedulers._elementwise import logarithms
from fam_runtime.schedulers.noise_schedule import TimestepSpacing

Float64Array = npt.NDArray[np.float64]


def spaced_timesteps(
    spacing: TimestepSpacing, num_train_timesteps: int, num_inference_steps: int, steps_offset: int
) -> Float64Array:
    """Return n timesteps, falling, float64 [n] (Lin et al., arXiv 2305.08891, Table 2).

    With T training timesteps:

        linspace  T - 1 to 0, both included, not rounded; [0] for n = 1
        leading   floor(T / n) * (n - 1 .. 0) + steps_offset
        trailing  round(T - i T / n) - 1, i = 0 .. n - 1

    `np.arange(T, 0, -T / n)` in diffusers gives one timestep too many, -1, for some n (61 or 103,
    for T = 1000). We cut it off: there is no timestep -1.
    """
    total, count = num_train_timesteps, num_inference_steps
    if spacing == "linspace":
        return np.linspace(0, total - 1, count, dtype=np.float64)[::-1].copy()
    if spacing == "leading":
        return np.arange(count, dtype=np.float64)[::-1] * (total // count) + steps_offset
    return np.arange(total, 0, -total / count)[:count].round() - 1


def timesteps_from_sigmas(sigmas: Float64Array, schedule_sigmas: Float64Array) -> Float64Array:
    """Return the timesteps at which the schedule has `sigmas`, linear in log sigma, clipped.

    `sigmas`: [n]. `schedule_sigmas`: [T], rising, except that with zero terminal SNR the last one
    may lie below others. Result: float64 [n] in [0, T - 1].
    """
    wanted, trained = logarithms(sigmas), logarithms(schedule_sigmas)
    last = len(trained) - 1
    timesteps = np.interp(wanted, trained, np.arange(len(trained)))
    # Where the last one lies below others np.interp finds it or not, by how its search runs; we
    # give it, as diffusers does.
    return np.where(wanted >= trained[last], np.float64(last), timesteps)
