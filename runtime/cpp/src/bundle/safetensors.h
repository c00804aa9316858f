// The tables of a safetensors file from an untrusted source: read strictly, never partly.
//
// A file is the length of its header (8 bytes, little-endian), the header, and the tables' bytes.
// The header is a JSON object of {"dtype", "shape", "data_offsets": [begin, end]} by name, and
// perhaps "__metadata__", an object of texts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"

namespace libfam {

// A kernel table has 2; more would only cost time.
inline constexpr std::size_t kMaxTableDimensions = 8;

inline constexpr const char* kSafetensorsFloat32 = "F32";

// A table as it lies in the file: `data` has 4 bytes per element where `dtype` is F32.
struct StoredTable {
  std::string name;
  std::string dtype;
  Shape shape;
  std::string_view data;  // of the file's bytes
};

// The tables in `data`, the bytes of a whole file, in the header's order; `name` is the file's name
// in messages.
// Raises: Error(bundle_damaged) if the header is malformed, or its tables overlap, leave a hole or
// do not end where the file does.
std::vector<StoredTable> tables_of_safetensors(std::string_view data, std::string_view name);

}  // namespace libfam
