#include "schedulers/euler_ancestral.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "schedulers/sigma_space.h"
#include "schedulers/step_plan.h"

namespace libfam {

SamplingPlan euler_ancestral_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps) {
  auto [timesteps, sigmas] = euler_timesteps_and_sigmas(schedule, num_inference_steps, false);
  const double init_noise_sigma = euler_init_noise_sigma(schedule, sigmas);
  sigmas.push_back(0.0);
  std::vector<StepPlan> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const double ratio = sigmas[i + 1] / sigmas[i];
    const double square = ratio * ratio;
    StepValues values = euler_step_values(schedule, sigmas[i], square);
    values[contract::kNextFromNoise] = sigmas[i + 1] * std::sqrt(std::max(1 - square, 0.0));
    steps.push_back(step_plan(timesteps[i], schedule.num_train_timesteps(), values, true));
  }
  return sampling_plan(std::move(steps), init_noise_sigma);
}

}  // namespace libfam
