// How much signal and noise a checkpoint was trained with at each timestep.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "bundle/manifest.h"

namespace libfam {

enum class PredictionType { epsilon, v_prediction, sample };
enum class TimestepSpacing { leading, trailing, linspace };
enum class FinalSigmasType { zero, sigma_min };

// The noise schedule of a checkpoint and the habits of its scheduler_config.json.
// `z_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps`, t = 0 .. T - 1.
struct NoiseSchedule {
  std::vector<double> alphas_cumprod;  // abar, [T], falling; the values are diffusers' float32 ones
  PredictionType prediction_type = PredictionType::epsilon;
  // None: the sampler's own default, as in diffusers (leading for DDIM, else linspace).
  std::optional<TimestepSpacing> timestep_spacing;
  std::int64_t steps_offset = 0;
  bool set_alpha_to_one = true;  // DDIM: the last step ends at abar = 1, or at abar_0
  // Euler, DPM-Solver++: the last step ends at sigma = 0 or at the smallest trained sigma.
  FinalSigmasType final_sigmas_type = FinalSigmasType::zero;
  bool zero_terminal_snr = false;
  bool use_karras_sigmas = false;
  bool lower_order_final = true;
  bool euler_at_final = false;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
  std::int64_t original_inference_steps = 50;  // LCM: timesteps of the distillation
  double timestep_scaling = 10.0;  // LCM: factor of the timestep in the boundary scalings

  // Raises: Error(invalid_request) if a value is unknown or the betas are no schedule.
  static NoiseSchedule from_info(const NoiseScheduleInfo& info);

  // T, the number of timesteps of the training schedule.
  std::int64_t num_train_timesteps() const {
    return static_cast<std::int64_t>(alphas_cumprod.size());
  }
  // sqrt((1 - abar) / abar), [T], increasing; 4096 at zero SNR, as in diffusers.
  std::vector<double> sigmas() const;
  // The sigma after the last step of Euler and of DPM-Solver++.
  double final_sigma() const;
};

}  // namespace libfam
