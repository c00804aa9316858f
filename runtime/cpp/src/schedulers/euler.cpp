#include "schedulers/euler.h"

#include <cstddef>
#include <utility>

#include "schedulers/sigma_space.h"
#include "schedulers/step_plan.h"

namespace libfam {

SamplingPlan euler_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps) {
  auto [timesteps, sigmas] =
      euler_timesteps_and_sigmas(schedule, num_inference_steps, schedule.use_karras_sigmas);
  const double init_noise_sigma = euler_init_noise_sigma(schedule, sigmas);
  sigmas.push_back(schedule.final_sigma());
  std::vector<StepPlan> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const double ratio = sigmas[i + 1] / sigmas[i];
    steps.push_back(step_plan(timesteps[i], schedule.num_train_timesteps(),
                              euler_step_values(schedule, sigmas[i], ratio)));
  }
  return sampling_plan(std::move(steps), init_noise_sigma);
}

}  // namespace libfam
