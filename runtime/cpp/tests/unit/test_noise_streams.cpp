// Streams of noise: what an error leaves behind, threads, and the arithmetic below.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "noise/box_muller_avx2.h"
#include "noise/fused_multiply_add.h"
#include "noise/mersenne_twister.h"
#include "noise/noise_source.h"
#include "noise/torch_cuda.h"

namespace libfam {
namespace {

const std::vector<std::string> kSources = {"torch-cpu", "torch-cuda"};

std::vector<float> second_piece(const std::string& name, Seed seed) {
  const auto source = noise_source(name, seed);
  source->normal({7});
  return source->normal({1, 4, 33, 31});
}

TEST_CASE("the first values of torch.randn(4, 4) with seed 0") {
  const std::vector<float> values = noise_source("torch-cpu", 0)->normal({4, 4});
  CHECK(values[0] == -1.1258398294448853f);
  CHECK(values[1] == -1.1523602008819580f);
  CHECK(values[2] == -0.25057858228683470f);
}

TEST_CASE("a refused request leaves the stream where it was") {
  const std::int64_t huge = std::int64_t{1} << 62;
  for (const std::string& name : kSources) {
    CAPTURE(name);
    const auto source = noise_source(name, 5);
    source->normal({7});
    CHECK_THROWS_AS(source->normal({2, -1}), Error);
    CHECK_THROWS_AS(source->normal({huge}), std::bad_alloc);
    CHECK_THROWS_AS(source->normal({huge, huge, huge}), std::bad_alloc);
    CHECK_THROWS_AS(source->normal({std::numeric_limits<std::int64_t>::min()}), Error);
    CHECK(source->normal({huge, huge, 0}).empty());
    CHECK(source->normal({1, 4, 33, 31}) == second_piece(name, 5));
  }
}

TEST_CASE("sources in several threads do not disturb each other") {
  for (const std::string& name : kSources) {
    CAPTURE(name);
    std::vector<std::vector<float>> pieces(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      threads.emplace_back([&pieces, &name, i] { pieces[i] = second_piece(name, i); });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < pieces.size(); ++i) CHECK(pieces[i] == second_piece(name, i));
  }
}

TEST_CASE("a GPU of any size is described without overflow") {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  TorchCudaNoise largest(1, {.multiprocessors = most, .max_threads_per_multiprocessor = most});
  CHECK(largest.normal({1000}) == TorchCudaNoise(1).normal({1000}));
}

TEST_CASE("the Mersenne Twister is the standard library's") {
  for (const std::uint32_t seed : {0u, 1u, 5489u, 0xFFFFFFFFu}) {
    std::mt19937 expected(seed);
    MersenneTwister engine(seed | std::uint64_t{7} << 32);  // torch keeps the low 32 bits
    bool same = true;
    for (int i = 0; i < 5000; ++i) same = same && engine.word() == expected();
    CHECK(same);
  }
}

TEST_CASE("uniforms are the same however they are cut") {
  std::vector<float> whole(2000);
  MersenneTwister(3).uniform32(whole);
  std::vector<float> cut(2000);
  MersenneTwister engine(3);
  const std::span<float> all(cut);
  for (std::size_t start = 0, size = 1; start < all.size(); start += size, size += 7) {
    size = std::min(size, all.size() - start);
    engine.uniform32(all.subspan(start, size));
  }
  CHECK(cut == whole);
}

TEST_CASE("the fused multiply-add by float64 is the exact one") {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> any(-8, 8);
  bool same = true;
  for (int i = 0; i < 200000; ++i) {
    const float a = any(engine);
    const float b = any(engine);
    const float c = any(engine);
    same = same && fused_multiply_add_by_float64(a, b, c) == std::fma(a, b, c);
  }
  CHECK(same);
  // Beside a tie of float32, closer than a float64 can tell: rounding twice is wrong.
  const float ulp = 0x1p-23f;
  for (const float sign : {1.0f, -1.0f}) {
    const float a = ulp / 2 * (1 + ulp);
    const float b = sign * (1 - ulp);
    const float c = 1 + ulp;
    const auto twice = static_cast<float>(static_cast<double>(a) * b + c);
    CHECK(fused_multiply_add_by_float64(a, b, c) == 1 + ulp);
    CHECK(twice != 1 + ulp);
    CHECK(fused_multiply_add_by_float64(a, -b, -c) == -(1 + ulp));
  }
}

TEST_CASE("both ways of the transform give the same bits") {
  if (!has_box_muller(BoxMullerPath::vectors)) return;
  std::vector<float> vectors(1 << 16);
  MersenneTwister(9).uniform32(vectors);
  std::vector<float> portable = vectors;
  normal_from_uniform_blocks(vectors, BoxMullerPath::vectors);
  normal_from_uniform_blocks(portable, BoxMullerPath::portable);
  bool same = true;
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    same = same &&
           std::bit_cast<std::uint32_t>(vectors[i]) == std::bit_cast<std::uint32_t>(portable[i]);
  }
  CHECK(same);
}

TEST_CASE("the transform takes whole blocks only") {
  std::vector<float> values(17);
  CHECK_THROWS_AS(normal_from_uniform_blocks(values), std::logic_error);
  normal_from_uniform_blocks({});
}

}  // namespace
}  // namespace libfam
