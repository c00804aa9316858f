// Tensors: element types, shapes with symbols, and views of memory that others own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace libfam {

enum class Dtype { float32, float16, bfloat16, int64, int32, boolean };

// The manifest's names: "float32", …, "bool".
const char* name_of(Dtype dtype);
std::size_t bytes_of(Dtype dtype);

using Shape = std::vector<std::int64_t>;

// A dimension of a graph's input or output: an integer, or a symbol such as "B", "2B", "8h".
using Dimension = std::variant<std::int64_t, std::string>;
using SymbolicShape = std::vector<Dimension>;

// Sizes of symbols, such as {"B": 1, "h": 64}.
using Sizes = std::map<std::string, std::int64_t, std::less<>>;

// Number of elements; 1 for a scalar's empty shape.
// Raises: Error(out_of_memory) if no memory could hold them.
std::int64_t element_count(const Shape& shape);
std::size_t bytes_of(const Shape& shape, Dtype dtype);

// `shape` with the symbols replaced: "2B" is twice B.
// Raises: Error(backend) if a symbol has no size.
Shape shape_from_symbols(const SymbolicShape& shape, const Sizes& sizes);

// A contiguous tensor in memory that somebody else owns: the host's, or a device's.
struct TensorView {
  void* data = nullptr;
  Shape shape;
  Dtype dtype = Dtype::float32;

  std::size_t nbytes() const { return bytes_of(shape, dtype); }
};

// A contiguous tensor in the host's memory.
struct HostTensor {
  std::vector<std::byte> bytes;
  Shape shape;
  Dtype dtype = Dtype::float32;

  static HostTensor zeros(Shape shape, Dtype dtype);
  static HostTensor scalar(float value);
  static HostTensor from(const std::vector<float>& values, Shape shape);

  float* floats() { return reinterpret_cast<float*>(bytes.data()); }
  const float* floats() const { return reinterpret_cast<const float*>(bytes.data()); }
  std::int64_t* integers() { return reinterpret_cast<std::int64_t*>(bytes.data()); }
  TensorView view() const { return {const_cast<std::byte*>(bytes.data()), shape, dtype}; }
};

}  // namespace libfam
