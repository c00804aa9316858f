// DDIM, eta = 0 (Song et al., arXiv 2010.02502, Eq. 12), as diffusers' DDIMScheduler.
#pragma once

#include "schedulers/noise_schedule.h"
#include "schedulers/plan.h"

namespace libfam {

// With alpha = sqrt(abar), sigma = sqrt(1 - abar), a prime for the timestep stepped to, and
// `eps = (z - alpha D) / sigma`:
//
//     z' = alpha' D + sigma' eps
//
// The timestep stepped to is `t - floor(T / n)`, whatever the spacing (so with linspace it is not
// quite the next one). (1) that; (2) the next timestep. We do (1) because diffusers does.
//
// Raises: Error(invalid_request) if a timestep lies beyond the schedule, or for epsilon prediction
// at zero SNR.
SamplingPlan ddim_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps);

}  // namespace libfam
