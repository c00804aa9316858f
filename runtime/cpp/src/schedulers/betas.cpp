#include "schedulers/betas.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>

#include "base/error.h"

namespace libfam {
namespace {

constexpr const char* kFix = "correct the checkpoint's scheduler_config.json and export again";
constexpr double kMaxBeta = 0.999;

// torch.linspace in float32: counted from both ends, product and sum rounded once.
std::vector<float> float32_linspace(double start, double end, std::int64_t steps) {
  const auto first = static_cast<float>(start);
  const auto last = static_cast<float>(end);
  const double step = (last - first) / static_cast<float>(steps - 1);
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(steps));
  for (std::int64_t i = 0; i < steps; ++i) {
    const double value = i < steps / 2 ? first + step * static_cast<double>(i)
                                       : last - step * static_cast<double>(steps - 1 - i);
    values.push_back(static_cast<float>(value));
  }
  return values;
}

std::vector<float> scaled_linear_betas(const NoiseScheduleInfo& info) {
  std::vector<float> betas =
      float32_linspace(std::sqrt(std::max(info.beta_start, 0.0)),
                       std::sqrt(std::max(info.beta_end, 0.0)), info.num_train_timesteps);
  for (float& beta : betas) beta *= beta;
  return betas;
}

// Betas of `abar(u) = cos((u + 0.008) / 1.008 * pi / 2)^2`, capped at 0.999.
std::vector<float> cosine_betas(std::int64_t steps) {
  const auto alpha_bar = [steps](std::int64_t i) {
    const double u = static_cast<double>(i) / static_cast<double>(steps);
    const double cosine = std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2);
    return cosine * cosine;
  };
  std::vector<float> betas;
  betas.reserve(static_cast<std::size_t>(steps));
  for (std::int64_t i = 0; i < steps; ++i) {
    betas.push_back(static_cast<float>(std::min(1 - alpha_bar(i + 1) / alpha_bar(i), kMaxBeta)));
  }
  return betas;
}

std::vector<float> unchecked_betas(const NoiseScheduleInfo& info) {
  const std::int64_t steps = info.num_train_timesteps;
  if (info.trained_betas) {
    std::vector<float> betas;
    betas.reserve(info.trained_betas->size());
    for (const double beta : *info.trained_betas) betas.push_back(static_cast<float>(beta));
    return betas;
  }
  if (steps < 2) {
    throw Error(ErrorCode::invalid_request,
                {.what = "num_train_timesteps in the scheduler config is too small",
                 .got = repr(steps),
                 .expected = "at least 2",
                 .fix = kFix});
  }
  if (info.beta_schedule == "linear") {
    return float32_linspace(info.beta_start, info.beta_end, steps);
  }
  if (info.beta_schedule == "scaled_linear") return scaled_linear_betas(info);
  if (info.beta_schedule == "squaredcos_cap_v2") return cosine_betas(steps);
  throw Error(ErrorCode::invalid_request,
              {.what = "unknown beta_schedule in the scheduler config",
               .got = repr(info.beta_schedule),
               .expected = "linear or scaled_linear or squaredcos_cap_v2, or trained_betas",
               .fix = kFix});
}

bool lie_between_zero_and_one(const float* first, const float* last) {
  return std::all_of(first, last, [](float value) { return value > 0 && value < 1; });
}

// A float32 in a message, as Python formats it: by way of its float64.
std::string text_of(float value) { return repr(static_cast<double>(value)).text; }

// torch.cumprod on a CPU: accumulated in float64, each value rounded to float32.
std::vector<float> cumulative_product_of_alphas(const std::vector<float>& betas) {
  std::vector<float> products;
  products.reserve(betas.size());
  double product = 1;
  for (const float beta : betas) {
    product *= static_cast<double>(1.0f - beta);
    products.push_back(static_cast<float>(product));
  }
  return products;
}

// Samplers divide by signal and noise: neither may be exactly 0, but for zero terminal SNR.
void check_alphas_cumprod(const float* first, const float* last) {
  if (lie_between_zero_and_one(first, last)) return;
  throw Error(
      ErrorCode::invalid_request,
      {.what = "the betas of the scheduler config leave a timestep without noise or without signal",
       .got = repr("alpha-bar from " + text_of(*first) + " to " + text_of(*(last - 1))),
       .expected = "float32 values above 0 and below 1 at every timestep",
       .fix = kFix});
}

std::vector<float> betas_with_zero_terminal_snr(const std::vector<float>& betas) {
  std::vector<float> values = cumulative_product_of_alphas(betas);
  for (float& value : values) value = std::sqrt(value);
  const float first = values.front();
  const float last = values.back();
  const float scale = first / (first - last);
  for (float& value : values) {
    const float root = (value - last) * scale;
    value = root * root;
  }
  std::vector<float> rescaled = {1.0f - values.front()};
  rescaled.reserve(values.size());
  for (std::size_t i = 1; i < values.size(); ++i) {
    rescaled.push_back(1.0f -
                       values[i] / values[i - 1]);  // a zero before the last is refused later
  }
  return rescaled;
}

}  // namespace

std::vector<float> betas_from_info(const NoiseScheduleInfo& info) {
  std::vector<float> betas = unchecked_betas(info);
  const float* const first = betas.data();
  const float* const last = first + betas.size();
  if (betas.size() >= 2 && lie_between_zero_and_one(first, last)) return betas;
  float lowest = 1;
  float highest = 0;
  for (const float beta : betas) {
    lowest = std::min(lowest, beta);
    highest = std::max(highest, beta);
  }
  throw Error(ErrorCode::invalid_request,
              {.what = "the betas of the scheduler config are no noise schedule",
               .got = repr("shape (" + std::to_string(betas.size()) + ",), " + text_of(lowest) +
                           " to " + text_of(highest)),
               .expected = "at least two values, each above 0 and below 1",
               .fix = kFix});
}

std::vector<double> alphas_cumprod_from_betas(const std::vector<float>& betas,
                                              bool zero_terminal_snr) {
  std::vector<float> alphas_cumprod = cumulative_product_of_alphas(betas);
  check_alphas_cumprod(alphas_cumprod.data(), alphas_cumprod.data() + alphas_cumprod.size());
  if (zero_terminal_snr) {
    alphas_cumprod = cumulative_product_of_alphas(betas_with_zero_terminal_snr(betas));
    check_alphas_cumprod(alphas_cumprod.data(), alphas_cumprod.data() + alphas_cumprod.size() - 1);
  }
  return {alphas_cumprod.begin(), alphas_cumprod.end()};
}

}  // namespace libfam
