#include "schedulers/timesteps.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "schedulers/evenly_spaced.h"
#include "schedulers/interpolation.h"

namespace libfam {
namespace {

std::vector<double> logarithms(std::vector<double> values) {
  for (double& value : values) value = std::log(value);
  return values;
}

}  // namespace

std::vector<double> spaced_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                     std::int64_t num_inference_steps, std::int64_t steps_offset) {
  if (spacing == TimestepSpacing::trailing) {
    return trailing_timesteps(num_train_timesteps, num_train_timesteps, num_inference_steps);
  }
  if (spacing == TimestepSpacing::linspace) {
    const auto last = static_cast<double>(num_train_timesteps - 1);
    std::vector<double> timesteps = linspace(0, last, num_inference_steps);
    std::reverse(timesteps.begin(), timesteps.end());
    return timesteps;
  }
  const auto stride = static_cast<double>(num_train_timesteps / num_inference_steps);
  std::vector<double> timesteps;
  for (std::int64_t i = num_inference_steps - 1; i >= 0; --i) {
    timesteps.push_back(static_cast<double>(i) * stride + static_cast<double>(steps_offset));
  }
  return timesteps;
}

std::vector<double> trailing_timesteps(std::int64_t start, std::int64_t num_train_timesteps,
                                       std::int64_t num_inference_steps) {
  const double stride =
      static_cast<double>(num_train_timesteps) / static_cast<double>(num_inference_steps);
  std::vector<double> timesteps = rounded(falling_range(static_cast<double>(start), stride));
  const auto most = static_cast<std::size_t>(num_inference_steps);
  if (timesteps.size() > most) timesteps.resize(most);
  for (double& timestep : timesteps) timestep -= 1;
  return timesteps;
}

std::vector<double> timesteps_from_sigmas(const std::vector<double>& sigmas,
                                          const std::vector<double>& schedule_sigmas) {
  return interpolated(logarithms(sigmas), logarithms(schedule_sigmas),
                      positions_of(schedule_sigmas));
}

std::vector<double> rounded(std::vector<double> timesteps) {
  for (double& timestep : timesteps) timestep = std::nearbyint(timestep);
  return timesteps;
}

std::vector<double> rounded_to_float32(std::vector<double> timesteps) {
  for (double& timestep : timesteps) timestep = static_cast<double>(static_cast<float>(timestep));
  return timesteps;
}

}  // namespace libfam
