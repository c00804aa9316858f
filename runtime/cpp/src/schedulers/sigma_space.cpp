#include "schedulers/sigma_space.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "schedulers/interpolation.h"
#include "schedulers/karras.h"
#include "schedulers/prediction.h"
#include "schedulers/timesteps.h"

namespace libfam {

TimestepsAndSigmas euler_timesteps_and_sigmas(const NoiseSchedule& schedule,
                                              std::int64_t num_inference_steps, bool karras) {
  const std::vector<double> trained = schedule.sigmas();
  std::vector<double> timesteps = rounded_to_float32(
      spaced_timesteps(schedule.timestep_spacing.value_or(TimestepSpacing::linspace),
                       schedule.num_train_timesteps(), num_inference_steps, schedule.steps_offset));
  std::vector<double> sigmas = at_positions(timesteps, trained);
  if (karras) {
    sigmas = karras_sigmas(sigmas.front(), sigmas.back(), num_inference_steps);
    timesteps = rounded_to_float32(timesteps_from_sigmas(sigmas, trained));
  }
  return {std::move(timesteps), std::move(sigmas)};
}

double euler_init_noise_sigma(const NoiseSchedule& schedule, const std::vector<double>& sigmas) {
  const double sigma = *std::max_element(sigmas.begin(), sigmas.end());
  const bool leading = schedule.timestep_spacing == TimestepSpacing::leading;
  return leading ? std::sqrt(sigma * sigma + 1) : sigma;
}

StepValues euler_step_values(const NoiseSchedule& schedule, double sigma, double ratio) {
  const double alpha = 1 / std::sqrt(sigma * sigma + 1);
  const auto prediction = data_prediction(schedule.prediction_type, alpha, sigma * alpha);
  const double d = prediction.from_latent * alpha;
  const double e = prediction.from_output;
  StepValues values{};
  values[contract::kReferenceSignal] = 1.0;
  values[contract::kReferenceNoiseCoefficient] = sigma;
  values[contract::kModelInputScale] = alpha;
  values[contract::kPredictionFromLatent] = d;
  values[contract::kPredictionFromOutput] = e;
  values[contract::kNextFromLatent] = ratio + (1 - ratio) * d;
  values[contract::kNextFromOutput] = (1 - ratio) * e;
  return values;
}

}  // namespace libfam
