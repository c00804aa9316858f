#include "schedulers/ddim.h"

#include <cmath>
#include <cstddef>
#include <string>

#include "base/error.h"
#include "schedulers/prediction.h"
#include "schedulers/step_plan.h"
#include "schedulers/timesteps.h"

namespace libfam {
namespace {

struct AlphaSigma {
  double alpha;
  double sigma;
};

// (sqrt(abar), sqrt(1 - abar)) at `timestep`; below 0, those of the final latent.
AlphaSigma alpha_sigma(const NoiseSchedule& schedule, std::int64_t timestep) {
  double alpha_bar = schedule.set_alpha_to_one ? 1.0 : schedule.alphas_cumprod.front();
  if (timestep >= 0) alpha_bar = schedule.alphas_cumprod[static_cast<std::size_t>(timestep)];
  return {std::sqrt(alpha_bar), std::sqrt(1 - alpha_bar)};
}

StepPlan step_to(const NoiseSchedule& schedule, std::int64_t timestep, std::int64_t next_timestep) {
  const auto [alpha, sigma] = alpha_sigma(schedule, timestep);
  const auto [alpha_next, sigma_next] = alpha_sigma(schedule, next_timestep);
  const auto [d, e] = data_prediction(schedule.prediction_type, alpha, sigma);
  StepValues values{};
  values[contract::kReferenceSignal] = alpha;
  values[contract::kReferenceNoiseCoefficient] = sigma;
  values[contract::kModelInputScale] = 1.0;
  values[contract::kPredictionFromLatent] = d;
  values[contract::kPredictionFromOutput] = e;
  values[contract::kNextFromLatent] = alpha_next * d + sigma_next * (1 - alpha * d) / sigma;
  values[contract::kNextFromOutput] = alpha_next * e - sigma_next * alpha * e / sigma;
  return step_plan(static_cast<double>(timestep), schedule.num_train_timesteps(), values);
}

void check_first_timestep(double first, std::int64_t total, std::int64_t num_inference_steps) {
  if (first <= static_cast<double>(total - 1)) return;
  throw Error(
      ErrorCode::invalid_request,
      {.what = "too many steps for DDIM with steps_offset: the first timestep does not exist",
       .got = repr(num_inference_steps),
       .expected = "a first timestep of at most " + std::to_string(total - 1) + ", not " +
                   std::to_string(static_cast<std::int64_t>(first)),
       .fix = "use fewer steps"});
}

}  // namespace

SamplingPlan ddim_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps) {
  const std::int64_t total = schedule.num_train_timesteps();
  const std::vector<double> timesteps =
      rounded(spaced_timesteps(schedule.timestep_spacing.value_or(TimestepSpacing::leading), total,
                               num_inference_steps, schedule.steps_offset));
  check_first_timestep(timesteps.front(), total, num_inference_steps);
  const std::int64_t stride = total / num_inference_steps;
  std::vector<StepPlan> steps;
  for (const double timestep : timesteps) {
    const auto t = static_cast<std::int64_t>(timestep);
    steps.push_back(step_to(schedule, t, t - stride));
  }
  return sampling_plan(std::move(steps), 1.0);
}

}  // namespace libfam
