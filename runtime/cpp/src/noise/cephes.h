// The constants of Cephes' single-precision log, sin and cos (S. Moshier), as ATen's
// `avx_mathfun.h` has them.
#pragma once

#include <array>

namespace libfam::cephes {

// log: polynomial for |x| < sqrt(2) - 1, highest power first; log(2) in two parts.
inline constexpr float kSqrtHalf = 0.707106781186547524f;
inline constexpr std::array<float, 9> kLogPolynomial = {
    7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
    -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
inline constexpr float kLog2Low = -2.12194440e-4f;
inline constexpr float kLog2High = 0.693359375f;

// sin, cos: pi / 4 in three parts, polynomials on [-pi / 4, pi / 4].
inline constexpr float kTwoPi = 6.283185307179586477f;
inline constexpr float kFourOverPi = 1.27323954473516f;
inline constexpr std::array<float, 3> kMinusQuarterPiParts = {
    -0.78515625f, -2.4187564849853515625e-4f, -3.77489497744594108e-8f};
inline constexpr std::array<float, 3> kSinPolynomial = {-1.9515295891e-4f, 8.3321608736e-3f,
                                                        -1.6666654611e-1f};
inline constexpr std::array<float, 3> kCosPolynomial = {
    2.443315711809948e-005f, -1.388731625493765e-003f, 4.166664568298827e-002f};

}  // namespace libfam::cephes
