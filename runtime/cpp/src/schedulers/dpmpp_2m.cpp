#include "schedulers/dpmpp_2m.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <optional>

#include "base/error.h"
#include "schedulers/interpolation.h"
#include "schedulers/karras.h"
#include "schedulers/prediction.h"
#include "schedulers/step_plan.h"
#include "schedulers/timesteps.h"

namespace libfam {
namespace {

constexpr std::int64_t kFewSteps = 15;  // below it diffusers lowers the order of the last step

struct TimestepsAndLevels {
  std::vector<double> timesteps;
  std::vector<double> levels;
};

// The number of timesteps with `lambda >= lambda_min_clipped`.
std::int64_t usable_timesteps(const NoiseSchedule& schedule, const std::vector<double>& trained) {
  const double least = schedule.lambda_min_clipped;
  const std::int64_t usable = std::count_if(
      trained.begin(), trained.end(), [least](double sigma) { return -std::log(sigma) >= least; });
  if (usable > 0) return usable;
  throw Error(ErrorCode::invalid_request,
              {.what = "the scheduler config's lambda_min_clipped leaves no timestep",
               .got = repr(least),
               .expected = "at most " + repr(-std::log(trained.front())).text,
               .fix = "use another scheduler than dpm++2m, or correct the checkpoint's "
                      "scheduler_config.json and export again"});
}

// Unlike the others this sampler spaces n + 1 timesteps and leaves the last one, 0, out (linspace
// and leading), counts only timesteps with `lambda >= lambda_min_clipped`, and rounds them.
TimestepsAndLevels timesteps_and_levels(const NoiseSchedule& schedule,
                                        std::int64_t num_inference_steps) {
  const std::vector<double> trained = schedule.sigmas();
  if (schedule.use_karras_sigmas) {
    std::vector<double> levels =
        karras_sigmas(trained.back(), trained.front(), num_inference_steps);
    // (1) round; (2) round, but cut for a cosine schedule, as diffusers does. We do (1): with
    // cosine betas and Karras levels our timesteps differ from diffusers' by up to one.
    return {rounded(timesteps_from_sigmas(levels, trained)), std::move(levels)};
  }
  const std::int64_t usable = usable_timesteps(schedule, trained);
  const auto spacing = schedule.timestep_spacing.value_or(TimestepSpacing::linspace);
  std::vector<double> timesteps;
  if (spacing == TimestepSpacing::trailing) {
    timesteps = trailing_timesteps(usable, schedule.num_train_timesteps(), num_inference_steps);
  } else {
    timesteps =
        rounded(spaced_timesteps(spacing, usable, num_inference_steps + 1, schedule.steps_offset));
    timesteps.pop_back();
  }
  std::vector<double> levels = at_positions(timesteps, trained);
  return {std::move(timesteps), std::move(levels)};
}

void check_falling(const std::vector<double>& levels, std::int64_t num_inference_steps) {
  const auto not_falling = std::adjacent_find(levels.begin(), levels.end(), std::less_equal<>());
  if (not_falling == levels.end()) return;
  throw Error(
      ErrorCode::invalid_request,
      {.what = "too many steps for DPM-Solver++ on this schedule: two would share a timestep",
       .got = repr(num_inference_steps),
       .expected = "levels of noise that fall from step to step",
       .fix = "use fewer steps or the ddim scheduler"});
}

// One step from `level` to `level_next`; of second order if `previous` is given.
StepPlan step_to(const NoiseSchedule& schedule, double timestep, std::optional<double> previous,
                 double level, double level_next) {
  const double alpha = 1 / std::sqrt(level * level + 1);
  const double alpha_next = 1 / std::sqrt(level_next * level_next + 1);
  const double sigma = level * alpha;
  const double sigma_next = level_next * alpha_next;
  const auto [d, e] = data_prediction(schedule.prediction_type, alpha, sigma);
  const double weight = alpha_next * (1 - level_next / level);
  double extrapolation = 0.0;
  if (previous) {
    const double step_before = std::log(*previous / level);
    const double step_now = std::log(level / level_next);
    extrapolation = step_now / (2 * step_before);  // 1 / (2 r)
  }
  const double weight_now = weight * (1 + extrapolation);
  StepValues values{};
  values[contract::kReferenceSignal] = alpha;
  values[contract::kReferenceNoiseCoefficient] = sigma;
  values[contract::kModelInputScale] = 1.0;
  values[contract::kPredictionFromLatent] = d;
  values[contract::kPredictionFromOutput] = e;
  values[contract::kNextFromLatent] = sigma_next / sigma + weight_now * d;
  values[contract::kNextFromOutput] = weight_now * e;
  values[contract::kNextFromPrevious] = -weight * extrapolation;
  return step_plan(timestep, schedule.num_train_timesteps(), values);
}

}  // namespace

SamplingPlan dpmpp_2m_plan(const NoiseSchedule& schedule, std::int64_t num_inference_steps) {
  auto [timesteps, levels] = timesteps_and_levels(schedule, num_inference_steps);
  check_falling(levels, num_inference_steps);
  const bool last_is_first_order =
      schedule.euler_at_final || (schedule.lower_order_final && num_inference_steps < kFewSteps) ||
      schedule.final_sigmas_type == FinalSigmasType::zero;
  levels.push_back(schedule.final_sigma());
  std::vector<StepPlan> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const bool final = i + 1 == timesteps.size();
    std::optional<double> previous;
    if (i > 0 && !(final && last_is_first_order)) previous = levels[i - 1];
    steps.push_back(step_to(schedule, timesteps[i], previous, levels[i], levels[i + 1]));
  }
  return sampling_plan(std::move(steps), 1.0);
}

}  // namespace libfam
