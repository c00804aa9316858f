#include "schedulers/karras.h"

#include <cmath>

#include "schedulers/evenly_spaced.h"

namespace libfam {
namespace {

constexpr double kRho = 7.0;

}  // namespace

std::vector<double> karras_sigmas(double sigma_max, double sigma_min, std::int64_t count) {
  const double start = std::pow(sigma_max, 1 / kRho);
  const double end = std::pow(sigma_min, 1 / kRho);
  std::vector<double> levels = linspace(0, 1, count);
  for (double& level : levels) level = std::pow(start + level * (end - start), kRho);
  return levels;
}

}  // namespace libfam
