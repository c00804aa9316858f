// Which training timesteps a run of n steps visits.
#pragma once

#include <cstdint>
#include <vector>

#include "schedulers/noise_schedule.h"

namespace libfam {

// n timesteps, falling (Lin et al., arXiv 2305.08891, Table 2). With T training timesteps:
//
//     linspace  T - 1 to 0, both included, not rounded; [0] for n = 1
//     leading   floor(T / n) * (n - 1 .. 0) + steps_offset
//     trailing  round(T - i T / n) - 1, i = 0 .. n - 1
//
// `np.arange(T, 0, -T / n)` in diffusers gives one timestep too many, -1, for some n (61 or 103,
// for T = 1000). We cut it off: there is no timestep -1.
std::vector<double> spaced_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                     std::int64_t num_inference_steps, std::int64_t steps_offset);

// Trailing timesteps from `start` down, a stride of T / n apart, at most n of them.
std::vector<double> trailing_timesteps(std::int64_t start, std::int64_t num_train_timesteps,
                                       std::int64_t num_inference_steps);

// The timesteps at which the schedule has `sigmas`, linear in log sigma, clipped to [0, T - 1].
// `schedule_sigmas`: [T], rising; with zero terminal SNR the last one may lie below others.
std::vector<double> timesteps_from_sigmas(const std::vector<double>& sigmas,
                                          const std::vector<double>& schedule_sigmas);

// Each rounded to a whole number, half to even.
std::vector<double> rounded(std::vector<double> timesteps);

// Each rounded to float32, as diffusers keeps the timesteps of Euler's samplers.
std::vector<double> rounded_to_float32(std::vector<double> timesteps);

}  // namespace libfam
