#include "noise/box_muller_avx2.h"

#include <cstddef>
#include <stdexcept>

#include "noise/box_muller_portable.h"
#include "noise/cephes.h"

// The functions below carry their instruction set with them, so that the rest of the library runs
// on processors without it.
#if defined(__x86_64__) && defined(__GNUC__)
#define FAM_HAS_AVX2_PATH 1
#include <immintrin.h>
#define FAM_AVX2 __attribute__((target("avx2,fma")))
#else
#define FAM_HAS_AVX2_PATH 0
#endif

namespace libfam {
namespace {

#if FAM_HAS_AVX2_PATH

struct SinesCosines {
  __m256 sine;
  __m256 cosine;
};

FAM_AVX2 inline __m256 all(float value) { return _mm256_set1_ps(value); }
FAM_AVX2 inline __m256i all(int value) { return _mm256_set1_epi32(value); }

// `polynomial` (highest power first) at `x`, one FMA per coefficient.
template <std::size_t size>
FAM_AVX2 inline __m256 horner(const std::array<float, size>& polynomial, __m256 x) {
  __m256 value = all(polynomial[0]);
  for (std::size_t i = 1; i < size; ++i) value = _mm256_fmadd_ps(value, x, all(polynomial[i]));
  return value;
}

// The natural logarithms of `x` in (0, 1], normal float32.
FAM_AVX2 inline __m256 log_of(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i unbiased = _mm256_sub_epi32(_mm256_srli_epi32(bits, 23), all(0x7E));
  const __m256 mantissa = _mm256_castsi256_ps(
      _mm256_or_si256(_mm256_and_si256(bits, all(0x007FFFFF)), all(0x3F000000)));  // in [0.5, 1)
  const __m256 small = _mm256_cmp_ps(mantissa, all(cephes::kSqrtHalf), _CMP_LT_OQ);
  const __m256 exponent =
      _mm256_sub_ps(_mm256_cvtepi32_ps(unbiased), _mm256_and_ps(small, all(1.0f)));
  const __m256 reduced =
      _mm256_add_ps(_mm256_sub_ps(mantissa, all(1.0f)), _mm256_and_ps(small, mantissa));
  const __m256 square = _mm256_mul_ps(reduced, reduced);
  __m256 y = _mm256_mul_ps(horner(cephes::kLogPolynomial, reduced), reduced);
  // (1) fma(y, square, exponent * low) or (2) fma(exponent, low, y * square). We do (1), as torch.
  y = _mm256_fmadd_ps(y, square, _mm256_mul_ps(exponent, all(cephes::kLog2Low)));
  y = _mm256_fmadd_ps(square, all(-0.5f), y);
  return _mm256_fmadd_ps(exponent, all(cephes::kLog2High), _mm256_add_ps(reduced, y));
}

// sin and cos of `theta` in [0, 2 pi].
FAM_AVX2 inline SinesCosines sines_and_cosines(__m256 theta) {
  __m256i octant = _mm256_cvttps_epi32(_mm256_mul_ps(theta, all(cephes::kFourOverPi)));
  octant = _mm256_and_si256(_mm256_add_epi32(octant, all(1)), all(~1));  // even: 0, 2, 4, 6, 8
  const __m256 quarters = _mm256_cvtepi32_ps(octant);
  __m256 x = theta;
  for (const float part : cephes::kMinusQuarterPiParts) {
    x = _mm256_fmadd_ps(quarters, all(part), x);
  }
  const __m256 square = _mm256_mul_ps(x, x);

  __m256 cosine = _mm256_mul_ps(horner(cephes::kCosPolynomial, square), square);
  // (1) fma(cosine, square, -square / 2) or (2) fma(square, -1/2, cosine * square). We do (1).
  cosine = _mm256_fmadd_ps(cosine, square, _mm256_mul_ps(square, all(-0.5f)));
  cosine = _mm256_add_ps(cosine, all(1.0f));
  __m256 sine = _mm256_mul_ps(horner(cephes::kSinPolynomial, square), square);
  sine = _mm256_fmadd_ps(sine, x, x);

  const __m256i two = _mm256_and_si256(octant, all(2));
  const __m256 swap = _mm256_castsi256_ps(_mm256_cmpeq_epi32(two, all(2)));
  const __m256i four = all(4);
  const __m256 sine_sign =
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_and_si256(octant, four), 29));
  const __m256 cosine_sign = _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_andnot_si256(_mm256_sub_epi32(octant, all(2)), four), 29));
  return {_mm256_xor_ps(_mm256_blendv_ps(sine, cosine, swap), sine_sign),
          _mm256_xor_ps(_mm256_blendv_ps(cosine, sine, swap), cosine_sign)};
}

FAM_AVX2 void normal_from_uniform_blocks_avx2(std::span<float> values) {
  for (std::size_t start = 0; start < values.size(); start += 16) {
    float* const block = values.data() + start;
    const __m256 log = log_of(_mm256_sub_ps(all(1.0f), _mm256_loadu_ps(block)));
    const __m256 radius = _mm256_sqrt_ps(_mm256_mul_ps(all(-2.0f), log));
    const auto [sine, cosine] =
        sines_and_cosines(_mm256_mul_ps(all(cephes::kTwoPi), _mm256_loadu_ps(block + 8)));
    // `+ 0` is torch's "times 1 plus mean 0": it turns -0 into 0.
    const __m256 zero = _mm256_setzero_ps();
    _mm256_storeu_ps(block, _mm256_add_ps(_mm256_mul_ps(radius, cosine), zero));
    _mm256_storeu_ps(block + 8, _mm256_add_ps(_mm256_mul_ps(radius, sine), zero));
  }
}

#endif

}  // namespace

bool has_box_muller(BoxMullerPath path) {
  if (path == BoxMullerPath::portable) return true;
#if FAM_HAS_AVX2_PATH
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

void normal_from_uniform_blocks(std::span<float> values) {
  static const auto path =
      has_box_muller(BoxMullerPath::vectors) ? BoxMullerPath::vectors : BoxMullerPath::portable;
  normal_from_uniform_blocks(values, path);
}

void normal_from_uniform_blocks(std::span<float> values, BoxMullerPath path) {
  if (values.size() % 16 != 0) throw std::logic_error("the uniforms are no blocks of 16");
  if (path == BoxMullerPath::portable) return normal_from_uniform_blocks_portable(values);
#if FAM_HAS_AVX2_PATH
  if (has_box_muller(path)) return normal_from_uniform_blocks_avx2(values);
#endif
  throw std::logic_error("this processor has no AVX2");
}

}  // namespace libfam
