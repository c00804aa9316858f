#include "base/tensor.h"

#include <charconv>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/error.h"

namespace libfam {
namespace {

// More than any memory holds, and less than what overflows.
constexpr std::int64_t kMostElements = std::int64_t{1} << 48;

// The manifest's reader lets no factor through that has more than four digits.
std::int64_t size_of(const std::string& symbol, const Sizes& sizes) {
  std::int64_t factor = 1;
  const char* end = symbol.data() + symbol.size();
  const auto parsed = std::from_chars(symbol.data(), end, factor);
  const std::string_view name(parsed.ptr, static_cast<std::size_t>(end - parsed.ptr));
  const auto found = sizes.find(name);
  if (found == sizes.end()) {
    std::vector<std::string> known;
    for (const auto& [other, size] : sizes) known.push_back(other);
    throw Error(ErrorCode::backend, {.what = "a symbol of the manifest has no size",
                                     .got = repr(symbol),
                                     .expected = "one of " + joined(known, ", "),
                                     .fix = "export the bundle again"});
  }
  return factor * found->second;
}

}  // namespace

const char* name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return "float32";
    case Dtype::float16:
      return "float16";
    case Dtype::bfloat16:
      return "bfloat16";
    case Dtype::int64:
      return "int64";
    case Dtype::int32:
      return "int32";
    case Dtype::boolean:
      return "bool";
  }
  throw std::logic_error("unknown dtype");
}

std::size_t bytes_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::int64:
      return 8;
    case Dtype::float32:
    case Dtype::int32:
      return 4;
    case Dtype::float16:
    case Dtype::bfloat16:
      return 2;
    case Dtype::boolean:
      return 1;
  }
  throw std::logic_error("unknown dtype");
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t dimension : shape) {
    if (dimension > 0 && count > kMostElements / dimension) {
      throw Error(ErrorCode::out_of_memory, {.what = "a tensor is too large for any memory",
                                             .expected = "sizes of a bundle that fam-export made",
                                             .fix = "export the bundle again"});
    }
    count *= dimension;
  }
  return count;
}

std::size_t bytes_of(const Shape& shape, Dtype dtype) {
  return static_cast<std::size_t>(element_count(shape)) * bytes_of(dtype);
}

Shape shape_from_symbols(const SymbolicShape& shape, const Sizes& sizes) {
  Shape sized;
  sized.reserve(shape.size());
  for (const Dimension& dimension : shape) {
    const auto* number = std::get_if<std::int64_t>(&dimension);
    sized.push_back(number != nullptr ? *number : size_of(std::get<std::string>(dimension), sizes));
  }
  return sized;
}

HostTensor HostTensor::zeros(Shape shape, Dtype dtype) {
  HostTensor tensor;
  tensor.bytes.resize(bytes_of(shape, dtype));
  tensor.shape = std::move(shape);
  tensor.dtype = dtype;
  return tensor;
}

HostTensor HostTensor::scalar(float value) { return from({value}, {}); }

HostTensor HostTensor::from(const std::vector<float>& values, Shape shape) {
  if (static_cast<std::int64_t>(values.size()) != element_count(shape)) {
    throw std::logic_error("a tensor's values do not fill its shape");
  }
  HostTensor tensor = zeros(std::move(shape), Dtype::float32);
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

}  // namespace libfam
