// Euler's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, Algorithm 2 without
// churn and without the second-order correction), as diffusers' EulerDiscreteScheduler.
#pragma once

#include "schedulers/noise_schedule.h"
#include "schedulers/plan.h"

namespace libfam {

// Latents are `x = x0 + sigma eps`:
//
//     x' = x + (x - D) / sigma * (sigma' - sigma)
//
// with sigma' the next step's level, after the last step 0 or, with `final_sigmas_type` sigma_min,
// the smallest trained one.
SamplingPlan euler_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps);

}  // namespace libfam
