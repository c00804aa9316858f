#include "engines/onnxruntime/shared_weights.h"

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/error.h"
#include "bundle/json_value.h"
#include "bundle/strict_json.h"

namespace libfam {
namespace {

constexpr std::uint64_t kTensorAlignment = 64;

Error bad_index(const std::string& index_name, std::optional<Repr> got) {
  return {ErrorCode::bundle_damaged,
          {.what = index_name + " does not describe the weights beside it",
           .got = std::move(got),
           .expected = "name to dtype, shape, offset and bytes",
           .fix = "export the bundle again"}};
}

JsonValue parsed(std::string_view index, const std::string& index_name) {
  try {
    return parse_json_object(index, index_name);
  } catch (const Error& error) {
    throw bad_index(index_name, error.parts().got);
  }
}

// Not bfloat16, which NumPy does not know either: no session computes in it.
std::optional<Dtype> dtype_from(const JsonValue* value) {
  const std::string* name = value == nullptr ? nullptr : value->text();
  if (name == nullptr) return std::nullopt;
  constexpr std::array<Dtype, 5> kKnown = {Dtype::float32, Dtype::float16, Dtype::int64,
                                           Dtype::int32, Dtype::boolean};
  for (const Dtype dtype : kKnown) {
    if (*name == name_of(dtype)) return dtype;
  }
  return std::nullopt;
}

// An integer that is not negative.
std::optional<std::uint64_t> natural(const JsonValue* value) {
  const std::int64_t* integer = value == nullptr ? nullptr : value->integer();
  if (integer == nullptr || *integer < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*integer);
}

// Dimensions of a tensor of `bytes`, all of which its elements fill.
std::optional<Shape> shape_from(const JsonValue* value, Dtype dtype, std::uint64_t bytes) {
  const JsonList* dimensions = value == nullptr ? nullptr : value->list();
  if (dimensions == nullptr) return std::nullopt;
  Shape shape;
  bool empty = false;
  for (const JsonValue& dimension : *dimensions) {
    const auto size = natural(&dimension);
    if (!size) return std::nullopt;
    empty = empty || *size == 0;
    shape.push_back(static_cast<std::int64_t>(*size));
  }
  std::uint64_t rest = bytes / bytes_of(dtype);
  if (bytes % bytes_of(dtype) != 0 || empty != (rest == 0)) return std::nullopt;
  for (const std::int64_t size : shape) {
    if (empty) break;
    if (rest % static_cast<std::uint64_t>(size) != 0) return std::nullopt;
    rest /= static_cast<std::uint64_t>(size);
  }
  if (!empty && rest != 1) return std::nullopt;
  return shape;
}

// Where the tensor of an entry lies in `file`; nothing if it does not fit.
std::optional<TensorView> tensor_at(const MappedFile& file, const JsonValue& entry) {
  const auto dtype = dtype_from(entry.member("dtype"));
  const auto offset = natural(entry.member("offset"));
  const auto bytes = natural(entry.member("bytes"));
  if (!dtype || !offset || !bytes || *offset % kTensorAlignment != 0 || *offset > file.size() ||
      *bytes > file.size() - *offset) {
    return std::nullopt;
  }
  const auto shape = shape_from(entry.member("shape"), *dtype, *bytes);
  if (!shape) return std::nullopt;
  return TensorView{file.data() + *offset, *shape, *dtype};
}

}  // namespace

SharedWeights::SharedWeights(const std::filesystem::path& weights, std::string_view index,
                             const std::string& index_name)
    : memory_(weights) {
  const JsonValue entries = parsed(index, index_name);
  if (memory_.size() == 0) throw bad_index(index_name, repr("cannot mmap an empty file"));
  const auto place = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  for (const auto& [name, entry] : *entries.object()) {
    const auto tensor = tensor_at(memory_, entry);
    if (!tensor) throw bad_index(index_name, repr(name + ": " + repr(entry).text));
    values_.emplace(
        name, Ort::Value::CreateTensor(place, tensor->data, tensor->nbytes(), tensor->shape.data(),
                                       tensor->shape.size(), element_type_of(tensor->dtype)));
  }
}

void SharedWeights::add_to(Ort::SessionOptions& options) const {
  for (const auto& [name, value] : values_) options.AddInitializer(name.c_str(), value);
}

}  // namespace libfam
