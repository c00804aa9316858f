// The outline of an ONNX file of any bytes: an outline or bundle_damaged, and the same through a
// small window as from memory.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "base/error.h"
#include "bundle/onnx_outline.h"

namespace {

// What the walk says, as a text.
std::string told(libfam::WindowedBytes bytes) {
  try {
    const libfam::OnnxOutline outline = libfam::outline_of_onnx(bytes, "x.onnx");
    std::string text;
    for (const auto& tensor : outline.external) {
      text += tensor.tensor + '\0' + tensor.location + '\0' + std::to_string(tensor.offset) + '\0';
    }
    for (const auto& op_type : outline.op_types) text += op_type + '\0';
    return text;
  } catch (const libfam::Error& error) {
    if (error.code() != libfam::ErrorCode::bundle_damaged) std::abort();
    return error.what();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto read = [&](std::uint64_t offset, char* out, std::size_t count) {
    bytes.copy(out, count, static_cast<std::size_t>(offset));
  };
  const std::string whole = told(libfam::WindowedBytes(bytes));
  if (told(libfam::WindowedBytes(size, read, 16)) != whole) std::abort();
  return 0;
}
