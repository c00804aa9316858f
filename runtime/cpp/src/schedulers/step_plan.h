// How the samplers make the steps of a plan from coefficients by name.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "schedulers/plan.h"

namespace libfam {

// By contract::StepCoefficient; what a sampler does not set is 0.
using StepValues = std::array<double, contract::kStepCoefficientCount>;

// fm_index: the nearest training timestep (half to even), in [0, T - 1].
StepPlan step_plan(double timestep, std::int64_t num_train_timesteps, const StepValues& values,
                   bool needs_noise = false);

// The plan of `steps`, of which there is at least one and whose first reference is where the target
// stage starts.
SamplingPlan sampling_plan(std::vector<StepPlan> steps, double init_noise_sigma);

}  // namespace libfam
