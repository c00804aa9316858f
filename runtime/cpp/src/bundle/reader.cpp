#include "bundle/reader.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/sha256.h"
#include "bundle/confined_files.h"
#include "bundle/file_errors.h"
#include "bundle/graph_files.h"
#include "bundle/integrity.h"
#include "bundle/kernels.h"
#include "bundle/not_a_bundle.h"
#include "bundle/path_text.h"
#include "bundle/strict_json.h"

namespace libfam {
namespace {

// Files read whole are tokenizers, tables and kernels (SDXL at 4x: 4 MB), never weights.
constexpr std::uint64_t kMaxReadBytes = 256 * 1024 * 1024;

constexpr const char* kWeights = "weights.bin";
constexpr const char* kWeightsIndex = "weights.json";

// Whether something is at `path`, be it a link that leads nowhere.
bool is_there(const std::string& path) {
  if (path.find('\0') != std::string::npos) return false;
  std::error_code failed;
  const auto status = std::filesystem::symlink_status(system_path(path), failed);
  return !failed && status.type() != std::filesystem::file_type::not_found;
}

// The bytes of manifest.json, not parsed, at most one more than a reader accepts.
std::string read_manifest(const std::string& root) {
  try {
    if (!is_there(path_below(root, kManifestName))) throw not_a_bundle(root);
    const ConfinedFile file(root, kManifestName);
    const std::uint64_t bytes = std::min<std::uint64_t>(file.status().size, kMaxJsonBytes);
    std::string data(static_cast<std::size_t>(bytes) + 1, '\0');
    data.resize(file.read_at(0, data.data(), data.size()));
    return data;
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::bundle_not_found,
                {.what = "the bundle at " + root + " cannot be read",
                 .got = repr(system_words(error.code().default_error_condition().value())),
                 .expected = "a folder that this user may read",
                 .fix = "change the permissions of the folder, or give the path of another one"});
  }
}

bool is_graph(std::string_view name) { return name.ends_with(".onnx"); }

}  // namespace

Bundle::Bundle(std::string root, Manifest manifest, std::string hash)
    : root_(std::move(root)), manifest_(std::move(manifest)), hash_(std::move(hash)) {}

Bundle Bundle::open(const std::string& path, Verify verify, const HashProgress& progress) {
  Bundle bundle = unchecked(path);
  // Sizes first, so that a truncated copy is told at once.
  for (const auto& [name, record] : bundle.manifest_.files) {
    verify_file(bundle.root_, name, record, false);
  }
  for (const auto& [name, record] : bundle.manifest_.files) {
    bundle.check_file(name, verify == Verify::full, progress);
  }
  return bundle;
}

Bundle Bundle::unchecked(const std::string& path) {
  std::string root = path_text(path);
  const std::string data = read_manifest(root);
  Manifest manifest = Manifest::from_bytes(data);
  return {std::move(root), std::move(manifest), sha256_hex(data)};
}

std::string Bundle::path(std::string_view name) const {
  const FileStatus now = verify_file(root_, name, record(name), false);
  const auto hashed = hashed_.find(name);
  if (hashed != hashed_.end() && hashed->second != now) check_file(name, true, {});
  return path_below(root_, name);
}

std::string Bundle::read_bytes(std::string_view name) const {
  return checked_bytes(root_, name, record(name), kMaxReadBytes);
}

KernelTables Bundle::kernel_tables(const Target& target) const {
  return kernel_tables_from_bytes(read_bytes(target.kernels), target.kernels,
                                  manifest_.noise_schedule.num_train_timesteps,
                                  manifest_.latent_size(target.size));
}

std::vector<std::string> Bundle::files_of_graph(const std::string& graph) const {
  std::set<std::string> locations;
  for (const ExternalData& tensor : external_data(graph)) locations.insert(tensor.location);
  std::vector<std::string> files = {graph};
  for (const std::string& location : locations) files.push_back(beside(graph, location));
  const std::string index = beside(graph, kWeightsIndex);
  if (locations.contains(kWeights) && manifest_.file(index)) files.push_back(index);
  return files;
}

std::vector<ExternalData> Bundle::external_data(const std::string& graph) const {
  record(graph);
  return check_graph_file(root_, graph, manifest_).external;
}

void Bundle::check_file(std::string_view name, bool contents, const HashProgress& progress) const {
  const FileStatus status = verify_file(root_, name, record(name), contents, progress);
  if (contents) hashed_.insert_or_assign(std::string(name), status);
  if (is_graph(name)) check_graph_file(root_, name, manifest_);
}

const FileRecord& Bundle::record(std::string_view name) const {
  if (const FileRecord* found = manifest_.file(name)) return *found;
  throw Error(ErrorCode::bundle_damaged, {.what = "manifest.json does not list this file",
                                          .got = repr(name),
                                          .expected = "a listed file",
                                          .fix = "export the bundle again with fam-export"});
}

}  // namespace libfam
