// Streams of noise, and the pieces that they are made of.
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "noise/box_muller_avx2.h"
#include "noise/fused_multiply_add.h"
#include "noise/mersenne_twister.h"
#include "noise/noise_source.h"
#include "noise/philox.h"
#include "noise/torch_cuda.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

std::unique_ptr<NoiseSource> source_of(const Json& in) {
  const auto seed = in.at("seed").get<std::uint64_t>();
  if (!in.contains("gpu")) return noise_source(in.at("source").get<std::string>(), seed);
  const auto gpu = in.at("gpu").get<std::vector<std::int64_t>>();
  return std::make_unique<TorchCudaNoise>(
      seed, NoiseGpu{.multiprocessors = gpu.at(0), .max_threads_per_multiprocessor = gpu.at(1)});
}

std::vector<float> floats_from(const std::string& path) {
  const std::string bytes = read_bytes(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

BoxMullerPath path_of(const Json& in) {
  return in.at("way").get<std::string>() == "vectors" ? BoxMullerPath::vectors
                                                      : BoxMullerPath::portable;
}

// The pieces of one stream that calls of the given shapes cut, one after the other in a file.
const Registration kNormal("noise.normal", [](const Json& in) {
  const auto source = source_of(in);
  std::vector<float> stream;
  for (const Json& shape : in.at("shapes")) {
    const std::vector<float> piece = source->normal(shape.get<Shape>());
    stream.insert(stream.end(), piece.begin(), piece.end());
  }
  write_bytes(in.at("path").get<std::string>(), stream.data(), stream.size() * sizeof(float));
  return Json(stream.size());
});

const Registration kHasBoxMuller("noise.has_box_muller",
                                 [](const Json& in) { return Json(has_box_muller(path_of(in))); });

// Uniforms in a file to normals in the same file.
const Registration kBoxMuller("noise.box_muller", [](const Json& in) {
  const auto path = in.at("path").get<std::string>();
  std::vector<float> values = floats_from(path);
  normal_from_uniform_blocks(values, path_of(in));
  write_bytes(path, values.data(), values.size() * sizeof(float));
  return Json(values.size());
});

// Triples a, b, c in a file to what replaces them: the processor's, then float64's a * b + c.
const Registration kFused("noise.fused_multiply_add", [](const Json& in) {
  const auto path = in.at("path").get<std::string>();
  std::vector<float> results;
  const std::vector<float> values = floats_from(path);
  for (std::size_t i = 0; i + 2 < values.size(); i += 3) {
    results.push_back(fused_multiply_add(values[i], values[i + 1], values[i + 2]));
    results.push_back(fused_multiply_add_by_float64(values[i], values[i + 1], values[i + 2]));
  }
  write_bytes(path, results.data(), results.size() * sizeof(float));
  return Json(results.size());
});

const Registration kPhilox("noise.philox", [](const Json& in) {
  return Json(philox4x32(in.at("counter").get<std::array<std::uint32_t, 4>>(),
                         in.at("key").get<std::array<std::uint32_t, 2>>()));
});

const Registration kWords("noise.words", [](const Json& in) {
  MersenneTwister engine(in.at("seed").get<std::uint64_t>());
  std::vector<std::uint32_t> words(in.at("count").get<std::size_t>());
  for (std::uint32_t& word : words) word = engine.word();
  return Json(words);
});

// Nanoseconds per value of `count` values, the best of `repeats`; `way` times the transform alone.
const Registration kSpeed("noise.speed", [](const Json& in) {
  using Clock = std::chrono::steady_clock;
  const auto count = in.at("count").get<std::int64_t>();
  const bool transform = in.contains("way");
  std::vector<float> uniforms(static_cast<std::size_t>(count));
  MersenneTwister(0).uniform32(uniforms);
  const auto source = transform ? nullptr : source_of(in);
  double best = 0;
  for (int repeat = 0; repeat < in.at("repeats").get<int>(); ++repeat) {
    std::vector<float> values = uniforms;
    const auto start = Clock::now();
    if (transform) {
      normal_from_uniform_blocks(values, path_of(in));
    } else {
      values = source->normal({count});
    }
    const std::chrono::duration<double, std::nano> taken = Clock::now() - start;
    const double each = taken.count() / static_cast<double>(count);
    best = repeat == 0 || each < best ? each : best;
  }
  return Json(best);
});

}  // namespace
}  // namespace libfam::probe
