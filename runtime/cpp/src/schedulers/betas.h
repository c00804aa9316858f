// Betas and alpha-bar, as diffusers computes them: in float32, with torch's roundings.
//
// fam_runtime/schedulers/_betas.py says why float32, and how close to torch; the same bits as
// there.
#pragma once

#include <vector>

#include "bundle/manifest.h"

namespace libfam {

// beta_t, [T].
// Raises: Error(invalid_request) if the schedule is unknown or the values are no betas.
std::vector<float> betas_from_info(const NoiseScheduleInfo& info);

// `abar_t = prod_{s <= t} (1 - beta_s)`, [T], float32 values.
//
// With `zero_terminal_snr`, sqrt(abar) is shifted and scaled so that its last value is 0 and its
// first one stays (Lin et al., arXiv 2305.08891, Algorithm 1).
//
// Raises: Error(invalid_request) if abar rounds to 1 or to 0 where no zero is asked for.
std::vector<double> alphas_cumprod_from_betas(const std::vector<float>& betas,
                                              bool zero_terminal_snr);

}  // namespace libfam
