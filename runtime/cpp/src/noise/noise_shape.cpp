#include "noise/noise_shape.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "base/error.h"

namespace libfam {
namespace {

Error negative_dimension(const Shape& shape) {
  std::vector<Repr> dimensions;
  for (const std::int64_t dimension : shape) dimensions.push_back(repr(dimension));
  return Error(ErrorCode::invalid_request, {.what = "noise shape has a negative dimension",
                                            .got = repr_tuple(dimensions),
                                            .expected = "dimensions of at least 0",
                                            .fix = "pass the shape of the latent"});
}

}  // namespace

std::size_t noise_size(const Shape& shape) {
  constexpr std::size_t kMost = std::numeric_limits<std::ptrdiff_t>::max() / sizeof(float);
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t n) { return n < 0; })) {
    throw negative_dimension(shape);
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::size_t size = 1;
  for (const std::int64_t dimension : shape) {
    const auto factor = static_cast<std::uint64_t>(dimension);
    if (factor > kMost / size) throw std::bad_alloc();
    size *= static_cast<std::size_t>(factor);
  }
  return size;
}

}  // namespace libfam
