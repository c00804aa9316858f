// torch's vectorised Box-Muller transform for CPUs, bit for bit.
//
// torch fills a float32 tensor in blocks of 16: from 16 uniforms `u` in [0, 1), with i in 0..7,
//
//     radius = sqrt(-2 log(1 - u[i])),  theta = 2 pi u[i + 8],
//     n[i] = radius cos(theta),  n[i + 8] = radius sin(theta)
//
// with the Cephes approximations of log, sin and cos in float32 on AVX2 (ATen's `avx_mathfun.h`).
// GCC contracts a product and the sum that follows into one FMA instruction. Where a sum has two
// products as operands there are two ways to contract it; fam_runtime/noise/_box_muller_avx2.py
// says how the two places were settled.
#pragma once

#include <span>

namespace libfam {

// How to compute it; all ways give the same bits.
enum class BoxMullerPath {
  vectors,   // AVX2 and FMA instructions, eight values at once
  portable,  // one value at a time, on any processor
};

// Whether this processor, and this build, can take `path`.
bool has_box_muller(BoxMullerPath path);

// Turns uniforms in [0, 1), multiples of 2^-24, into N(0, 1) values, in place. The size of `values`
// is a multiple of 16. Takes the fastest way there is.
void normal_from_uniform_blocks(std::span<float> values);
void normal_from_uniform_blocks(std::span<float> values, BoxMullerPath path);

}  // namespace libfam
