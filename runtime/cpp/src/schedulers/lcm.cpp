#include "schedulers/lcm.h"

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "schedulers/evenly_spaced.h"
#include "schedulers/prediction.h"
#include "schedulers/step_plan.h"

namespace libfam {
namespace {

// Square of the standard deviation that the boundary scalings assume of the data: diffusers' 0.5.
constexpr double kDataVariance = 0.25;

struct AlphaSigma {
  double alpha;
  double sigma;
};

void check_steps(const NoiseSchedule& schedule, std::int64_t num_inference_steps) {
  const std::int64_t total = schedule.num_train_timesteps();
  const std::int64_t original = schedule.original_inference_steps;
  if (original > total) {
    throw Error(ErrorCode::invalid_request,
                {.what = "the scheduler config's original_inference_steps cannot be",
                 .got = repr(original),
                 .expected = "at most num_train_timesteps, " + std::to_string(total),
                 .fix = "use another scheduler than lcm, or correct the checkpoint's "
                        "scheduler_config.json and export again"});
  }
  if (num_inference_steps > original) {
    throw Error(ErrorCode::invalid_request,
                {.what = "too many steps for LCM",
                 .got = repr(num_inference_steps),
                 .expected = "at most original_inference_steps, " + std::to_string(original),
                 .fix = "4 to 8 steps are usual"});
  }
}

// n timesteps, falling.
std::vector<std::int64_t> lcm_timesteps(const NoiseSchedule& schedule,
                                        std::int64_t num_inference_steps) {
  check_steps(schedule, num_inference_steps);
  const std::int64_t original = schedule.original_inference_steps;
  const std::int64_t stride = schedule.num_train_timesteps() / original;
  std::vector<std::int64_t> timesteps;
  for (const double place :
       linspace(0, static_cast<double>(original), num_inference_steps, /*endpoint=*/false)) {
    timesteps.push_back((original - static_cast<std::int64_t>(place)) * stride - 1);
  }
  return timesteps;
}

// At `timestep`; without one, those of a latent without noise.
AlphaSigma alpha_sigma(const NoiseSchedule& schedule, std::optional<std::int64_t> timestep) {
  if (!timestep) return {1.0, 0.0};
  const double alpha_bar = schedule.alphas_cumprod[static_cast<std::size_t>(*timestep)];
  return {std::sqrt(alpha_bar), std::sqrt(1 - alpha_bar)};
}

StepPlan step_to(const NoiseSchedule& schedule, std::int64_t timestep,
                 std::optional<std::int64_t> next_timestep) {
  const auto [alpha, sigma] = alpha_sigma(schedule, timestep);
  const auto [alpha_next, sigma_next] = alpha_sigma(schedule, next_timestep);
  const auto [d, e] = data_prediction(schedule.prediction_type, alpha, sigma);
  // c_skip and c_out of the consistency function: 1 and 0 at timestep 0.
  const double scaled = static_cast<double>(timestep) * schedule.timestep_scaling;
  const double square = scaled * scaled + kDataVariance;
  const double skip = kDataVariance / square;
  const double out = scaled / std::sqrt(square);
  StepValues values{};
  values[contract::kReferenceSignal] = alpha;
  values[contract::kReferenceNoiseCoefficient] = sigma;
  values[contract::kModelInputScale] = 1.0;
  values[contract::kPredictionFromLatent] = d;
  values[contract::kPredictionFromOutput] = e;
  values[contract::kNextFromLatent] = alpha_next * (skip + out * d);
  values[contract::kNextFromOutput] = alpha_next * out * e;
  values[contract::kNextFromNoise] = sigma_next;
  return step_plan(static_cast<double>(timestep), schedule.num_train_timesteps(), values,
                   next_timestep.has_value());
}

}  // namespace

SamplingPlan lcm_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps) {
  const std::vector<std::int64_t> timesteps = lcm_timesteps(schedule, num_inference_steps);
  std::vector<StepPlan> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    std::optional<std::int64_t> next;
    if (i + 1 < timesteps.size()) next = timesteps[i + 1];
    steps.push_back(step_to(schedule, timesteps[i], next));
  }
  return sampling_plan(std::move(steps), 1.0);
}

}  // namespace libfam
