#include "noise/torch_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>

#include "base/error.h"
#include "noise/fused_multiply_add.h"
#include "noise/noise_shape.h"
#include "noise/philox.h"

namespace libfam {
namespace {

constexpr std::uint64_t kThreadsPerBlock = 256;                 // ATen's block_size_bound
constexpr std::uint64_t kValuesPerDraw = 4;                     // curand_normal4
constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 29;  // ATen cuts a tensor above 2 GiB

constexpr float kTwoPowMinus32 = 0x1p-32f;
constexpr float kTwoPiPowMinus32 = kTwoPowMinus32 * 6.2831855f;

// word * scale + scale / 2, rounded once (nvcc contracts it into an FMA).
float scaled_to_open_interval(std::uint32_t word, float scale) {
  return fused_multiply_add(static_cast<float>(word), scale, scale * 0.5f);
}

// Two normals of a pair of words, in cuRAND's order: sine first.
std::pair<float, float> box_muller(std::uint32_t x, std::uint32_t y) {
  const double u = scaled_to_open_interval(x, kTwoPowMinus32);
  const double v = scaled_to_open_interval(y, kTwoPiPowMinus32);
  const float radius = std::sqrt(-2.0f * static_cast<float>(std::log(u)));
  return {radius * static_cast<float>(std::sin(v)), radius * static_cast<float>(std::cos(v))};
}

std::uint64_t checked_blocks(const NoiseGpu& gpu) {
  constexpr auto kBlock = static_cast<std::int64_t>(kThreadsPerBlock);
  if (gpu.multiprocessors < 1 || gpu.max_threads_per_multiprocessor < kBlock) {
    throw Error(
        ErrorCode::invalid_request,
        {.what = "the GPU described for torch-cuda noise cannot run one block",
         .got = repr_tuple({repr(gpu.multiprocessors), repr(gpu.max_threads_per_multiprocessor)}),
         .expected = "at least 1 multiprocessor of at least 256 threads",
         .fix = "pass the numbers of torch.cuda.get_device_properties"});
  }
  // More blocks than the largest tensor has make no difference: the product cannot overflow.
  constexpr auto kEnough = static_cast<std::int64_t>(kMaxElements);
  return static_cast<std::uint64_t>(std::min(gpu.multiprocessors, kEnough)) *
         static_cast<std::uint64_t>(std::min(gpu.max_threads_per_multiprocessor / kBlock, kEnough));
}

constexpr std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

}  // namespace

TorchCudaNoise::TorchCudaNoise(Seed seed, const NoiseGpu& gpu)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      max_blocks_(checked_blocks(gpu)) {}

std::vector<float> TorchCudaNoise::normal(const Shape& shape) {
  const std::uint64_t size = noise_size(shape);
  if (size > kMaxElements) {
    throw Error(ErrorCode::invalid_request,
                {.what = "too many values for one call of torch-cuda noise",
                 .got = repr(size),
                 .expected = "at most 536870912",
                 .fix = "lower the resolution or the batch"});
  }
  std::vector<float> values(static_cast<std::size_t>(size));
  if (size == 0) return values;
  const std::uint64_t threads =
      std::min(ceil_div(size, kThreadsPerBlock), max_blocks_) * kThreadsPerBlock;
  const std::uint64_t rounds = ceil_div(size, threads * kValuesPerDraw);
  const std::span<float> all(values);
  for (std::uint64_t k = 0; k < rounds; ++k) {
    const std::uint64_t start = kValuesPerDraw * threads * k;
    draw(offset_ / kValuesPerDraw + k, threads, all.subspan(start));
  }
  offset_ += kValuesPerDraw * rounds;
  return values;
}

// Writes what all threads draw in one round, as far as `out` reaches.
void TorchCudaNoise::draw(std::uint64_t counter, std::uint64_t threads,
                          std::span<float> out) const {
  for (std::uint64_t g = 0; g < std::min<std::uint64_t>(threads, out.size()); ++g) {
    const auto words =
        philox4x32({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                    static_cast<std::uint32_t>(g), 0},
                   key_);
    for (std::uint64_t i = 0; i < kValuesPerDraw; i += 2) {
      const std::uint64_t place = threads * i + g;
      if (place >= out.size()) break;
      const auto [sine, cosine] = box_muller(words[i], words[i + 1]);
      out[place] = sine;
      if (place + threads < out.size()) out[place + threads] = cosine;
    }
  }
}

}  // namespace libfam
