// The Box-Muller transform of box_muller_avx2.h, one value at a time on any processor.
#pragma once

#include <span>

namespace libfam {

void normal_from_uniform_blocks_portable(std::span<float> values);

}  // namespace libfam
