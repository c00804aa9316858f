// Multistep sampling of a latent consistency model (Luo et al., arXiv 2310.04378, Eq. 9 and
// Algorithm 3), as diffusers' LCMScheduler.
#pragma once

#include <cstdint>
#include <vector>

#include "schedulers/noise_schedule.h"
#include "schedulers/plan.h"

namespace libfam {

// With alpha = sqrt(abar), sigma = sqrt(1 - abar), a prime for the next timestep, and the
// consistency function `f = c_skip z + c_out D`:
//
//     z' = alpha' f + sigma' noise,    after the last step z' = f
//
// One noise per step but the last, which draws none.
//
// The distillation knew `o = original_inference_steps` timesteps, `k floor(T / o) - 1` for
// k = o .. 1. The run takes those at the places `floor(i o / n)`, i = 0 .. n - 1, whatever the
// `timestep_spacing` and `steps_offset`.
//
// Raises: Error(invalid_request) for more steps than the distillation had, a distillation with more
// steps than the training, or epsilon prediction at zero SNR.
SamplingPlan lcm_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps);

}  // namespace libfam
