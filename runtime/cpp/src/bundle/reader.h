// A bundle on disk, verified before anything in it is parsed (docs/bundle_format.md).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/file_status.h"
#include "bundle/manifest.h"

namespace libfam {

// A tensor that a graph keeps outside of its file; no `length` where the file does not say it.
struct ExternalData {
  std::string tensor;
  std::string location;
  std::uint64_t offset = 0;
  std::optional<std::uint64_t> length;
};

// Circular-convolution kernels of FM, one row per training timestep, float32: rows [T, H] and
// columns [T, W] in latent samples, weight [T].
struct KernelTables {
  std::int64_t timesteps = 0;
  Size latent;
  std::vector<float> rows;
  std::vector<float> columns;
  std::vector<float> weight;

  const float* row_kernel(std::int64_t t) const { return rows.data() + t * latent.height; }
  const float* column_kernel(std::int64_t t) const { return columns.data() + t * latent.width; }
};

enum class Verify { full, size };

// Told how many further bytes have been hashed; false stops with Error(cancelled).
using HashProgress = std::function<bool(std::uint64_t bytes)>;

// Not for use by several threads at once.
class Bundle {
 public:
  // Opens the bundle in the folder `path`.
  // Verify::full hashes every file; Verify::size only compares sizes, for bundles that were
  // verified before and that nobody else can write to.
  // Raises: Error(bundle_not_found, bundle_version_unsupported, bundle_damaged,
  // bundle_path_refused, cancelled).
  static Bundle open(const std::string& path, Verify verify = Verify::full,
                     const HashProgress& progress = {});
  // Only its manifest is read.
  static Bundle unchecked(const std::string& path);

  const std::string& root() const { return root_; }
  const Manifest& manifest() const { return manifest_; }
  const std::string& hash() const { return hash_; }  // SHA-256 of manifest.json

  // Where the listed file `name` lies; it is hashed again if it changed since it was.
  // Raises: Error(bundle_damaged, bundle_path_refused).
  std::string path(std::string_view name) const;
  // The content of a listed file; the bytes that are returned are hashed, always.
  std::string read_bytes(std::string_view name) const;
  KernelTables kernel_tables(const Target& target) const;
  // The listed files that loading `graph` reads: its own, its weights', and their index.
  std::vector<std::string> files_of_graph(const std::string& graph) const;
  std::vector<ExternalData> external_data(const std::string& graph) const;

 private:
  Bundle(std::string root, Manifest manifest, std::string hash);
  void check_file(std::string_view name, bool contents, const HashProgress& progress) const;
  const FileRecord& record(std::string_view name) const;

  std::string root_;
  Manifest manifest_;
  std::string hash_;
  mutable std::map<std::string, FileStatus, std::less<>> hashed_;
};

}  // namespace libfam
