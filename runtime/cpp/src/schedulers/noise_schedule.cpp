#include "schedulers/noise_schedule.h"

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "schedulers/betas.h"

namespace libfam {
namespace {

// diffusers' value of alpha-bar at zero SNR for the samplers that divide by it.
constexpr double kAlphaBarAtZeroSnr = 0x1p-24;

template <typename Value>
using Choices = std::vector<std::pair<std::string, Value>>;

template <typename Value>
Value chosen(const std::string& key, const std::string& name, const Choices<Value>& choices) {
  std::vector<std::string> names;
  for (const auto& [choice, value] : choices) {
    if (choice == name) return value;
    names.push_back(choice);
  }
  throw Error(ErrorCode::invalid_request,
              {.what = "unknown " + key + " in the scheduler config",
               .got = repr(name),
               .expected = joined(names, " or "),
               .fix = "correct the checkpoint's scheduler_config.json and export again"});
}

TimestepSpacing spacing_of(const std::string& name) {
  return chosen<TimestepSpacing>("timestep_spacing", name,
                                 {{"leading", TimestepSpacing::leading},
                                  {"trailing", TimestepSpacing::trailing},
                                  {"linspace", TimestepSpacing::linspace}});
}

PredictionType prediction_type_of(const std::string& name) {
  return chosen<PredictionType>("prediction_type", name,
                                {{"epsilon", PredictionType::epsilon},
                                 {"v_prediction", PredictionType::v_prediction},
                                 {"sample", PredictionType::sample}});
}

FinalSigmasType final_sigmas_type_of(const std::string& name) {
  return chosen<FinalSigmasType>(
      "final_sigmas_type", name,
      {{"zero", FinalSigmasType::zero}, {"sigma_min", FinalSigmasType::sigma_min}});
}

double sigma_from(double alpha_bar) { return std::sqrt((1 - alpha_bar) / alpha_bar); }

}  // namespace

NoiseSchedule NoiseSchedule::from_info(const NoiseScheduleInfo& info) {
  const std::vector<float> betas = betas_from_info(info);
  NoiseSchedule schedule;
  if (info.timestep_spacing) schedule.timestep_spacing = spacing_of(*info.timestep_spacing);
  schedule.alphas_cumprod = alphas_cumprod_from_betas(betas, info.rescale_betas_zero_snr);
  schedule.prediction_type = prediction_type_of(info.prediction_type);
  schedule.steps_offset = info.steps_offset;
  schedule.set_alpha_to_one = info.set_alpha_to_one;
  schedule.final_sigmas_type = final_sigmas_type_of(info.final_sigmas_type);
  schedule.zero_terminal_snr = info.rescale_betas_zero_snr;
  schedule.use_karras_sigmas = info.use_karras_sigmas;
  schedule.lower_order_final = info.lower_order_final;
  schedule.euler_at_final = info.euler_at_final;
  if (info.lambda_min_clipped) schedule.lambda_min_clipped = *info.lambda_min_clipped;
  schedule.original_inference_steps = info.original_inference_steps;
  schedule.timestep_scaling = info.timestep_scaling;
  return schedule;
}

std::vector<double> NoiseSchedule::sigmas() const {
  std::vector<double> values;
  values.reserve(alphas_cumprod.size());
  for (const double alpha_bar : alphas_cumprod) values.push_back(sigma_from(alpha_bar));
  if (zero_terminal_snr) values.back() = sigma_from(kAlphaBarAtZeroSnr);
  return values;
}

double NoiseSchedule::final_sigma() const {
  return final_sigmas_type == FinalSigmasType::zero ? 0.0 : sigma_from(alphas_cumprod.front());
}

}  // namespace libfam
