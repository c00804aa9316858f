#include "bundle/graph_files.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "bundle/confined_files.h"
#include "bundle/file_errors.h"

namespace libfam {
namespace {

// An operator that makes a backend load compiled code from a file, which no bundle may carry.
constexpr std::string_view kCompiledEngine = "EPContext";

OnnxOutline read_outline(const std::string& root, std::string_view name) {
  const ConfinedFile file(root, name);
  const auto read = [&](std::uint64_t offset, char* out, std::size_t count) {
    // Short only if the file was cut after it was opened.
    if (file.read_at(offset, out, count) != count) {
      throw std::system_error(EIO, std::generic_category());
    }
  };
  try {
    WindowedBytes bytes(file.status().size, read);
    return outline_of_onnx(bytes, name);
  } catch (const std::system_error& error) {
    throw unreadable_file(name, error.code().value());
  }
}

// a + b in decimal digits; both are below 10^19, so that the sum may need more than 64 bits.
std::string sum_text(std::uint64_t a, std::uint64_t b) {
  constexpr std::uint64_t kTenTo19 = 10'000'000'000'000'000'000U;
  if (a < kTenTo19 - b) return std::to_string(a + b);
  const std::string rest = std::to_string(a - (kTenTo19 - b));
  return "1" + std::string(19 - rest.size(), '0') + rest;
}

bool ends_within(std::uint64_t offset, std::uint64_t length, std::int64_t bytes) {
  const auto available = static_cast<std::uint64_t>(bytes);
  return offset <= available && length <= available - offset;
}

void check_location(std::string_view name, const ExternalData& tensor, const Manifest& manifest) {
  const std::string sibling = beside(name, tensor.location);
  const bool permitted = tensor.location == "weights.bin" || tensor.location == "model.bin";
  const FileRecord* record = permitted ? manifest.file(sibling) : nullptr;
  if (record == nullptr) {
    throw Error(ErrorCode::bundle_path_refused,
                {.what = std::string(name) + " of the bundle keeps the tensor " +
                         repr(tensor.tensor).text + " in another file",
                 .got = repr(tensor.location),
                 .expected = "weights.bin or model.bin in the same folder, listed in manifest.json",
                 .fix = "do not use this bundle unless you made it yourself"});
  }
  const std::uint64_t length = tensor.length.value_or(0);
  if (!ends_within(tensor.offset, length, record->bytes)) {
    throw Error(ErrorCode::bundle_path_refused,
                {.what = std::string(name) + " of the bundle reads the tensor " +
                         repr(tensor.tensor).text + " beyond the end of " + sibling,
                 .got = repr("byte " + sum_text(tensor.offset, length)),
                 .expected = "at most " + std::to_string(record->bytes) + " bytes",
                 .fix = "get the bundle again or export it again with fam-export"});
  }
}

}  // namespace

OnnxOutline check_graph_file(const std::string& root, std::string_view name,
                             const Manifest& manifest) {
  OnnxOutline outline = read_outline(root, name);
  if (outline.op_types.contains(kCompiledEngine)) {
    throw Error(ErrorCode::bundle_path_refused,
                {.what = std::string(name) + " of the bundle holds a compiled engine",
                 .got = repr(kCompiledEngine),
                 .expected = "plain ONNX operators",
                 .fix = "do not use this bundle unless you made it yourself"});
  }
  for (const ExternalData& tensor : outline.external) check_location(name, tensor, manifest);
  return outline;
}

std::string beside(std::string_view graph, std::string_view location) {
  const std::size_t slash = graph.rfind('/');
  const std::string_view folder =
      slash == std::string_view::npos ? std::string_view() : graph.substr(0, slash + 1);
  return std::string(folder) + std::string(location);
}

}  // namespace libfam
