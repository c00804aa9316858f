#include "noise/torch_cpu.h"

#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>

#include "noise/box_muller_avx2.h"
#include "noise/noise_shape.h"

namespace libfam {
namespace {

constexpr std::size_t kBlock = 16;

}  // namespace

std::vector<float> TorchCpuNoise::normal(const Shape& shape) {
  std::vector<float> values(noise_size(shape));
  if (values.size() < kBlock) {
    for (float& value : values) value = static_cast<float>(next_scalar());
  } else {
    fill_blocks(values);
  }
  return values;
}

void TorchCpuNoise::fill_blocks(std::vector<float>& values) {
  const std::span<float> all(values);
  engine_.uniform32(all);
  const std::size_t rest = all.size() % kBlock;
  normal_from_uniform_blocks(all.first(all.size() - rest));
  if (rest == 0) return;
  engine_.uniform32(all.last(kBlock));
  normal_from_uniform_blocks(all.last(kBlock));
}

// sqrt(-2 log(1 - u2)) times cos, then sin, of 2 pi u1.
double TorchCpuNoise::next_scalar() {
  if (waiting_) {
    const double value = *waiting_;
    waiting_.reset();
    return value;
  }
  const double u1 = engine_.uniform64();
  const double u2 = engine_.uniform64();
  const double radius = std::sqrt(-2.0 * std::log1p(-u2));
  const double theta = 2.0 * std::numbers::pi * u1;
  waiting_ = radius * std::sin(theta);
  return radius * std::cos(theta);
}

}  // namespace libfam
