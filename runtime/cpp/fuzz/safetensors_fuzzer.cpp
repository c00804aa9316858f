// Kernel tables of any bytes: finite tables of the right size, or bundle_damaged.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "bundle/kernels.h"
#include "bundle/safetensors.h"

namespace {

void check_kernels(std::string_view bytes) {
  const libfam::KernelTables tables =
      libfam::kernel_tables_from_bytes(bytes, "x.safetensors", 2, {3, 1});
  if (tables.rows.size() != 6 || tables.columns.size() != 2 || tables.weight.size() != 2) {
    std::abort();
  }
  for (const float value : tables.rows) {
    if (!std::isfinite(value)) std::abort();
  }
}

// Every table lies within the bytes, one behind the other, whatever their order in the header.
void check_tables(std::string_view bytes) {
  std::size_t total = 0;
  for (const auto& table : libfam::tables_of_safetensors(bytes, "x.safetensors")) {
    if (table.data.data() < bytes.data() ||
        table.data.data() + table.data.size() > bytes.data() + bytes.size()) {
      std::abort();
    }
    total += table.data.size();
  }
  if (total > bytes.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const auto check : {check_kernels, check_tables}) {
    try {
      check(bytes);
    } catch (const libfam::Error& error) {
      if (error.code() != libfam::ErrorCode::bundle_damaged) std::abort();
    }
  }
  return 0;
}
