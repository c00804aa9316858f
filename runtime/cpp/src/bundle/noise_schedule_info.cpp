#include "bundle/noise_schedule_info.h"

#include <array>

namespace libfam {
namespace {

constexpr std::array<std::string_view, 3> kBetaSchedules = {"linear", "scaled_linear",
                                                            "squaredcos_cap_v2"};
constexpr std::array<std::string_view, 2> kPredictionTypes = {"epsilon", "v_prediction"};
constexpr std::array<std::string_view, 3> kTimestepSpacings = {"leading", "linspace", "trailing"};
constexpr std::array<std::string_view, 2> kFinalSigmas = {"zero", "sigma_min"};

constexpr std::int64_t kMaxTrainTimesteps = 100'000;
constexpr double kMaxLambda = 1000;
constexpr double kMinTimestepScaling = 1e-6;
constexpr double kMaxTimestepScaling = 1e6;

std::optional<std::vector<double>> trained_betas(const JsonCursor& at, std::int64_t steps) {
  if (at.value().is_null()) return std::nullopt;
  std::vector<double> betas;
  for (const JsonCursor& item : at.items()) betas.push_back(item.number(0, 1));
  if (static_cast<std::int64_t>(betas.size()) != steps) {
    throw at.wrong("null or " + std::to_string(steps) + " numbers, one per training timestep");
  }
  return betas;
}

// Half the log signal-to-noise ratio; null is diffusers' minus infinity, which JSON lacks.
std::optional<double> lambda_min(const JsonCursor& at) {
  if (at.value().is_null()) return std::nullopt;
  return at.number(-kMaxLambda, kMaxLambda);
}

}  // namespace

// Members of a braced list are evaluated in order, so the first wrong key is the one that is named.
NoiseScheduleInfo noise_schedule_from(const JsonCursor& at) {
  const std::int64_t steps = at.member("num_train_timesteps").integer(1, kMaxTrainTimesteps);
  return {
      .num_train_timesteps = steps,
      .beta_start = at.member("beta_start").number(0, 1),
      .beta_end = at.member("beta_end").number(0, 1),
      .beta_schedule = at.member("beta_schedule").choice(kBetaSchedules),
      .trained_betas = trained_betas(at.member("trained_betas"), steps),
      .rescale_betas_zero_snr = at.member("rescale_betas_zero_snr").flag(),
      .prediction_type = at.member("prediction_type").choice(kPredictionTypes),
      .timestep_spacing = at.member("timestep_spacing").optional_choice(kTimestepSpacings),
      .steps_offset = at.member("steps_offset").integer(0, steps),
      .set_alpha_to_one = at.member("set_alpha_to_one").flag(),
      .final_sigmas_type = at.member("final_sigmas_type").choice(kFinalSigmas),
      .use_karras_sigmas = at.member("use_karras_sigmas").flag(),
      .lower_order_final = at.member("lower_order_final").flag(),
      .euler_at_final = at.member("euler_at_final").flag(),
      .lambda_min_clipped = lambda_min(at.member("lambda_min_clipped")),
      .original_inference_steps =
          at.member("original_inference_steps").integer(1, kMaxTrainTimesteps),
      .timestep_scaling =
          at.member("timestep_scaling").number(kMinTimestepScaling, kMaxTimestepScaling),
  };
}

}  // namespace libfam
