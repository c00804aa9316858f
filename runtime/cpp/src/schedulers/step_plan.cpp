#include "schedulers/step_plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace libfam {

StepPlan step_plan(double timestep, std::int64_t num_train_timesteps, const StepValues& values,
                   bool needs_noise) {
  StepPlan step;
  step.timestep = timestep;
  const auto last = static_cast<double>(num_train_timesteps - 1);
  step.fm_index = static_cast<std::int64_t>(std::clamp(std::nearbyint(timestep), 0.0, last));
  step.coefficients64 = values;
  for (std::size_t i = 0; i < values.size(); ++i) {
    step.coefficients[i] = static_cast<float>(values[i]);
  }
  step.needs_noise = needs_noise;
  return step;
}

SamplingPlan sampling_plan(std::vector<StepPlan> steps, double init_noise_sigma) {
  SamplingPlan plan;
  plan.initial_signal = steps.front().coefficients64[contract::kReferenceSignal];
  plan.initial_noise = steps.front().coefficients64[contract::kReferenceNoiseCoefficient];
  plan.init_noise_sigma = init_noise_sigma;
  plan.steps = std::move(steps);
  return plan;
}

}  // namespace libfam
