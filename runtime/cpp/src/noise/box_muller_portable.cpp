#include "noise/box_muller_portable.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "noise/cephes.h"
#include "noise/fused_multiply_add.h"

namespace libfam {
namespace {

struct SineCosine {
  float sine;
  float cosine;
};

// `polynomial` (highest power first) at `x`, one FMA per coefficient.
template <std::size_t size>
float horner(const std::array<float, size>& polynomial, float x) {
  float value = polynomial[0];
  for (std::size_t i = 1; i < size; ++i) value = fused_multiply_add(value, x, polynomial[i]);
  return value;
}

// The natural logarithm of `x` in (0, 1], normal float32.
float log_of(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  auto exponent = static_cast<float>(static_cast<std::int32_t>(bits >> 23) - 0x7E);
  const auto mantissa = std::bit_cast<float>((bits & 0x007FFFFFu) | 0x3F000000u);  // [0.5, 1)
  const bool small = mantissa < cephes::kSqrtHalf;
  exponent -= small ? 1.0f : 0.0f;
  const float reduced = (mantissa - 1.0f) + (small ? mantissa : 0.0f);
  const float square = reduced * reduced;
  float y = horner(cephes::kLogPolynomial, reduced) * reduced;
  // (1) fma(y, square, exponent * low) or (2) fma(exponent, low, y * square). We do (1), as torch.
  y = fused_multiply_add(y, square, exponent * cephes::kLog2Low);
  y = fused_multiply_add(square, -0.5f, y);
  return fused_multiply_add(exponent, cephes::kLog2High, reduced + y);
}

// sin and cos of `theta` in [0, 2 pi].
SineCosine sine_and_cosine(float theta) {
  auto octant = static_cast<std::int32_t>(theta * cephes::kFourOverPi);
  octant = (octant + 1) & ~1;  // even: 0, 2, 4, 6, 8
  const auto quarters = static_cast<float>(octant);
  float x = theta;
  for (const float part : cephes::kMinusQuarterPiParts) x = fused_multiply_add(quarters, part, x);
  const float square = x * x;

  float cosine = horner(cephes::kCosPolynomial, square) * square;
  // (1) fma(cosine, square, -square / 2) or (2) fma(square, -1/2, cosine * square). We do (1).
  cosine = fused_multiply_add(cosine, square, square * -0.5f) + 1.0f;
  float sine = horner(cephes::kSinPolynomial, square) * square;
  sine = fused_multiply_add(sine, x, x);

  const bool swap = (octant & 2) != 0;
  const float sine_sign = (octant & 4) != 0 ? -1.0f : 1.0f;
  const float cosine_sign = ((octant - 2) & 4) == 0 ? -1.0f : 1.0f;
  return {(swap ? cosine : sine) * sine_sign, (swap ? sine : cosine) * cosine_sign};
}

}  // namespace

void normal_from_uniform_blocks_portable(std::span<float> values) {
  for (std::size_t start = 0; start < values.size(); start += 16) {
    float* const block = values.data() + start;
    for (std::size_t i = 0; i < 8; ++i) {
      const float radius = std::sqrt(-2.0f * log_of(1.0f - block[i]));
      const auto [sine, cosine] = sine_and_cosine(cephes::kTwoPi * block[i + 8]);
      // `+ 0` is torch's "times 1 plus mean 0": it turns -0 into 0.
      block[i] = radius * cosine + 0.0f;
      block[i + 8] = radius * sine + 0.0f;
    }
  }
}

}  // namespace libfam
