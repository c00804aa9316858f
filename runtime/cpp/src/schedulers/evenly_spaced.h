// Evenly spaced numbers, with NumPy's roundings: timesteps are rounded to whole numbers and looked
// up in tables, where one bit can make another timestep.
#pragma once

#include <cstdint>
#include <vector>

namespace libfam {

// np.linspace: `count` numbers from `start` to `stop`, which is the last one, exactly, or is left
// out.
std::vector<double> linspace(double start, double stop, std::int64_t count, bool endpoint = true);

// np.arange(start, 0, -step): numbers from `start` down to above 0, a step apart.
std::vector<double> falling_range(double start, double step);

}  // namespace libfam
