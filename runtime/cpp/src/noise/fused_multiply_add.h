// Fused multiply-add of float32 on every processor: a * b + c, rounded once.
#pragma once

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace libfam {

static_assert(FLT_EVAL_METHOD == 0, "float32 arithmetic must round to float32");

// The same by float64 arithmetic, for processors without the instruction: several times faster than
// the C library's fmaf there.
//
// Finite arguments; the result is zero or of a magnitude of at least 2^-126.
//
// The product of two float32 has at most 48 bits, so it is exact in float64. The float64 sum is
// rounded to 53 bits, and rounding that again to 24 bits is wrong only if the first rounding
// produced a tie of the second. Those sums (one in 2^29) are moved off the tie by one bit in the
// direction of the rounding error of the sum, which Knuth's TwoSum gives exactly.
inline float fused_multiply_add_by_float64(float a, float b, float c) {
  // A float64 carries 29 bits more than a float32; this pattern of them marks the tie.
  constexpr std::uint64_t kExtraBits = 0x1FFFFFFF;
  constexpr std::uint64_t kTie = 0x10000000;
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  double sum = product + addend;
  const auto bits = std::bit_cast<std::uint64_t>(sum);
  if ((bits & kExtraBits) == kTie) [[unlikely]] {
    const double virtual_addend = sum - product;
    const double error = (product - (sum - virtual_addend)) + (addend - virtual_addend);
    if (error != 0) sum = std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
  }
  return static_cast<float>(sum);
}

inline float fused_multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
  return std::fma(a, b, c);
#else
  return fused_multiply_add_by_float64(a, b, c);
#endif
}

}  // namespace libfam
