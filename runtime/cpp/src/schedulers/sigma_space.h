// What Euler's two samplers share: latents `x = x0 + sigma eps`, timesteps, first latent.
#pragma once

#include <cstdint>
#include <vector>

#include "schedulers/noise_schedule.h"
#include "schedulers/step_plan.h"

namespace libfam {

struct TimestepsAndSigmas {
  std::vector<double> timesteps;
  std::vector<double> sigmas;  // the noise level at each
};

// Sigma is linear between training timesteps; a timestep beyond the last one has its sigma.
// Timesteps are rounded to float32, as diffusers keeps them.
TimestepsAndSigmas euler_timesteps_and_sigmas(const NoiseSchedule& schedule,
                                              std::int64_t num_inference_steps, bool karras);

// The factor of the native stage's first noise: sigma, or sqrt(sigma^2 + 1) if leading.
//
// With leading spacing the first timestep is well below T, where the latent still holds signal;
// diffusers accounts for its variance, 1.
double euler_init_noise_sigma(const NoiseSchedule& schedule, const std::vector<double>& sigmas);

// The coefficients of an Euler step from `sigma` to `ratio * sigma`:
//
//     x' = x + (x - D) / sigma * (ratio sigma - sigma) = ratio x + (1 - ratio) D
//
// The model sees `x / sqrt(sigma^2 + 1)`, a latent with alpha = 1 / sqrt(sigma^2 + 1).
StepValues euler_step_values(const NoiseSchedule& schedule, double sigma, double ratio);

}  // namespace libfam
