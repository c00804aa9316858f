#include "schedulers/evenly_spaced.h"

#include <cmath>
#include <cstddef>

namespace libfam {

std::vector<double> linspace(double start, double stop, std::int64_t count, bool endpoint) {
  const double delta = stop - start;
  const auto intervals = static_cast<double>(endpoint ? count - 1 : count);
  const double step = intervals > 0 ? delta / intervals : delta;
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<double>(i) * step + start);
  if (endpoint && count > 1) values.back() = stop;
  return values;
}

std::vector<double> falling_range(double start, double step) {
  const auto count = static_cast<std::int64_t>(std::ceil(start / step));
  // NumPy computes the second number, and multiplies the difference between it and the first.
  const double second = start - step;
  const double difference = second - start;
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(i == 1 ? second : start + static_cast<double>(i) * difference);
  }
  return values;
}

}  // namespace libfam
