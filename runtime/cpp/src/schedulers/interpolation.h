// Piecewise linear functions, with NumPy's roundings.
#pragma once

#include <vector>

namespace libfam {

// np.interp: the function through (xp, fp) at each of `x`; constant outside of xp.
// `xp` rises, except that its last value may lie below others: from there on the result is fp's
// last.
std::vector<double> interpolated(const std::vector<double>& x, const std::vector<double>& xp,
                                 const std::vector<double>& fp);

// The function through (0, values[0]), (1, values[1]), … at each of `positions`.
std::vector<double> at_positions(const std::vector<double>& positions,
                                 const std::vector<double>& values);

// 0, 1, …, count - 1.
std::vector<double> positions_of(const std::vector<double>& values);

}  // namespace libfam
