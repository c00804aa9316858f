#include "bundle/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "bundle/safetensors.h"

namespace libfam {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tables are copied as they lie in a file");

Error damaged(std::string_view name, Repr got, const std::string& expected) {
  return {ErrorCode::bundle_damaged,
          {.what = std::string(name) + " of the bundle is not a table of kernels",
           .got = std::move(got),
           .expected = expected,
           .fix = "get the bundle again or export it again with fam-export"}};
}

std::string text_of(const Shape& shape) {
  std::vector<Repr> sizes;
  for (const std::int64_t size : shape) sizes.push_back(repr(size));
  return repr_tuple(sizes).text;
}

const StoredTable& find(const std::vector<StoredTable>& tables, const std::string& key,
                        std::string_view name) {
  const auto found = std::ranges::find(tables, key, &StoredTable::name);
  if (found != tables.end()) return *found;
  std::vector<std::string> names;
  for (const StoredTable& table : tables) names.push_back(table.name);
  std::ranges::sort(names);
  throw damaged(name, repr_texts(names), "a table " + repr(key).text);
}

std::vector<float> values_of(const std::vector<StoredTable>& tables, const std::string& key,
                             const Shape& shape, std::string_view name) {
  const StoredTable& table = find(tables, key, name);
  if (table.dtype != kSafetensorsFloat32 || table.shape != shape) {
    throw damaged(name, repr(key + " " + table.dtype + " " + text_of(table.shape)),
                  key + " " + kSafetensorsFloat32 + " " + text_of(shape));
  }
  std::vector<float> values(table.data.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), table.data.data(), table.data.size());
  if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
    throw damaged(name, repr(key + " holds NaN or infinity"), "finite kernels");
  }
  return values;
}

}  // namespace

KernelTables kernel_tables_from_bytes(std::string_view data, std::string_view name,
                                      std::int64_t timesteps, Size latent) {
  const std::vector<StoredTable> tables = tables_of_safetensors(data, name);
  return {.timesteps = timesteps,
          .latent = latent,
          .rows = values_of(tables, "rows", {timesteps, latent.height}, name),
          .columns = values_of(tables, "columns", {timesteps, latent.width}, name),
          .weight = values_of(tables, "weight", {timesteps}, name)};
}

}  // namespace libfam
