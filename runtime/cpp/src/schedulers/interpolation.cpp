#include "schedulers/interpolation.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace libfam {
namespace {

double interpolated_at(double x, const std::vector<double>& xp, const std::vector<double>& fp) {
  if (x >= xp.back()) return fp.back();
  if (x < xp.front()) return fp.front();
  const auto above = std::upper_bound(xp.begin(), xp.end(), x);
  const auto i = static_cast<std::size_t>(above - xp.begin()) - 1;
  if (xp[i] == x) return fp[i];
  const double slope = (fp[i + 1] - fp[i]) / (xp[i + 1] - xp[i]);
  return slope * (x - xp[i]) + fp[i];
}

}  // namespace

std::vector<double> interpolated(const std::vector<double>& x, const std::vector<double>& xp,
                                 const std::vector<double>& fp) {
  std::vector<double> values;
  values.reserve(x.size());
  for (const double each : x) values.push_back(interpolated_at(each, xp, fp));
  return values;
}

std::vector<double> at_positions(const std::vector<double>& positions,
                                 const std::vector<double>& values) {
  return interpolated(positions, positions_of(values), values);
}

std::vector<double> positions_of(const std::vector<double>& values) {
  std::vector<double> positions(values.size());
  std::iota(positions.begin(), positions.end(), 0.0);
  return positions;
}

}  // namespace libfam
