// Noise levels after Karras et al.
#pragma once

#include <cstdint>
#include <vector>

namespace libfam {

// `count` noise levels from `sigma_max` down to `sigma_min`:
// `(max^(1/rho) + i / (count - 1) (min^(1/rho) - max^(1/rho)))^rho`, rho = 7
// (Karras et al., arXiv 2206.00364, Eq. 5).
std::vector<double> karras_sigmas(double sigma_max, double sigma_min, std::int64_t count);

}  // namespace libfam
