// Seeded noise that reproduces torch's generators, without torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace libfam {

inline constexpr const char* kDefaultNoiseSource = "torch-cpu";

// A seeded stream of N(0, 1) values; a source is named after what it reproduces. The pieces of the
// stream depend on how the calls cut it, exactly as with a generator of torch.
class NoiseSource {
 public:
  virtual ~NoiseSource() = default;
  // The next piece of the stream, element_count(shape) values in C order.
  virtual std::vector<float> normal(const Shape& shape) = 0;
};

// A seed as torch uses it: a negative one of Python's is its two's complement, 2^64 + seed.
using Seed = std::uint64_t;

// A fresh stream of the source called `name`.
// Raises: Error(invalid_request) if the name is unknown.
std::unique_ptr<NoiseSource> noise_source(const std::string& name, Seed seed);

}  // namespace libfam
