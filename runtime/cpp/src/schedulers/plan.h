// A sampling run as numbers: what the runtime feeds to the step graph, step by step.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bundle/contract.h"
#include "bundle/manifest.h"

namespace libfam {

// One denoising step; fam_runtime/schedulers/plan.py says what the coefficients multiply.
struct StepPlan {
  double timestep = 0;        // what the model is told
  std::int64_t fm_index = 0;  // row of the FM tables, in [0, T - 1]
  std::array<double, contract::kStepCoefficientCount> coefficients64{};
  std::array<float, contract::kStepCoefficientCount> coefficients{};  // the same, rounded
  bool needs_noise = false;  // draws one fresh noise of the latent's shape
};

// All steps of one run, and how its first latent is made.
// Native stage: z = init_noise_sigma * eps. Target: z = initial_signal * z0_up + initial_noise *
// eps.
struct SamplingPlan {
  std::vector<StepPlan> steps;
  double initial_signal = 0;
  double initial_noise = 0;
  double init_noise_sigma = 1;
};

// The plan of `num_inference_steps` steps of the sampler called `name`: "ddim", "dpm++2m", "euler",
// "euler-a" or "lcm".
// Raises: Error(invalid_request) if the name is unknown, the number is not in 1 .. T, or the
// sampler cannot run that many steps on this schedule.
SamplingPlan make_plan(const std::string& name, const NoiseScheduleInfo& schedule,
                       std::int64_t num_inference_steps);

}  // namespace libfam
