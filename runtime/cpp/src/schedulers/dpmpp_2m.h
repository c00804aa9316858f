// DPM-Solver++(2M), midpoint (Lu et al., arXiv 2211.01095, Algorithm 2), as diffusers'
// DPMSolverMultistepScheduler with `algorithm_type="dpmsolver++"`, `solver_order=2`.
#pragma once

#include "schedulers/noise_schedule.h"
#include "schedulers/plan.h"

namespace libfam {

// Latents are `z = alpha x0 + sigma eps`. With s = sigma / alpha the level,
// alpha = 1 / sqrt(s^2 + 1), lambda = -log s, a prime for the level stepped to, h = lambda' -
// lambda and r = (lambda - lambda_prev) / h:
//
//     first order   z' = (sigma' / sigma) z + alpha' (1 - s' / s) D
//     second order  the same with D + (D - D_prev) / (2 r) instead of D
//
// The first step is of first order, and so is the last one if it ends at s = 0, or if
// `euler_at_final`, or if `lower_order_final` and there are fewer than 15 steps.
//
// Raises: Error(invalid_request) if two steps would fall on one timestep, or `lambda_min_clipped`
// leaves no timestep.
SamplingPlan dpmpp_2m_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps);

}  // namespace libfam
