// The noise of torch's CPU generator, without torch.
#pragma once

#include <optional>
#include <vector>

#include "noise/mersenne_twister.h"
#include "noise/noise_source.h"

namespace libfam {

// `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` in float32.
//
// Bit for bit what torch gives on an x86 CPU with AVX2, call after call, and on every processor. On
// others torch itself takes another path (the C library's log, sin, cos) and differs by a few 1e-6.
//
// - 16 values and more: uniforms of 24 bits, transformed in blocks of 16. If the size is no
// multiple
//   of 16, 16 fresh uniforms are drawn and the last 16 values computed anew from them.
// - Fewer than 16 values: Box-Muller in float64, one value at a time; a pair gives two values, and
//   the second one waits, also across calls, for the next request of fewer than 16 values. This
//   path uses the C library's log1p, sin and cos, whose last bit may differ between systems: after
//   rounding to float32 that shows about once in 10^8 values.
class TorchCpuNoise final : public NoiseSource {
 public:
  explicit TorchCpuNoise(Seed seed) : engine_(seed) {}

  // Raises: Error(invalid_request) if a dimension is negative.
  std::vector<float> normal(const Shape& shape) override;

 private:
  void fill_blocks(std::vector<float>& values);  // 16 values and more
  double next_scalar();

  MersenneTwister engine_;
  std::optional<double> waiting_;
};

}  // namespace libfam
