// Euler's method with ancestral noise, as diffusers' EulerAncestralDiscreteScheduler.
#pragma once

#include "schedulers/noise_schedule.h"
#include "schedulers/plan.h"

namespace libfam {

// Latents are `x = x0 + sigma eps`:
//
//     sigma_up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2
//     sigma_down = sqrt(sigma'^2 - sigma_up^2) = sigma'^2 / sigma
//     x' = x + (x - D) / sigma * (sigma_down - sigma) + sigma_up noise
//
// One noise per step, the last one included (its weight is 0), in the order of the steps. As in
// diffusers the last level is always 0, and Karras levels are not used.
SamplingPlan euler_ancestral_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps);

}  // namespace libfam
