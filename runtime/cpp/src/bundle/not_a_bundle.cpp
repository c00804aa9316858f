#include "bundle/not_a_bundle.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <vector>

#include "bundle/manifest.h"
#include "bundle/path_text.h"

namespace libfam {
namespace {

namespace fs = std::filesystem;

constexpr std::array kCheckpointMarks = {"model_index.json", "unet/config.json",
                                         "v1-inference.yaml"};
constexpr std::array kCheckpointEndings = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"};
constexpr std::size_t kMaxFoldersLookedAt = 100;

// What is at `path`, through links; not_found also for a link that leads in a circle.
fs::file_type type_at(const std::string& path) {
  if (path.find('\0') != std::string::npos) return fs::file_type::not_found;
  std::error_code failed;
  const fs::file_type type = fs::status(system_path(path), failed).type();
  if (type == fs::file_type::not_found) return type;
  if (failed == std::errc::too_many_symbolic_link_levels) return fs::file_type::not_found;
  if (failed) throw std::system_error(failed);
  return type;
}

bool is_file(const std::string& path) { return type_at(path) == fs::file_type::regular; }

Error not_found(ErrorParts parts) { return {ErrorCode::bundle_not_found, std::move(parts)}; }

Error not_a_directory(const std::string& path) {
  if (std::ranges::find(kCheckpointEndings, path_suffix(path)) != kCheckpointEndings.end()) {
    return not_found({.what = path + " is a file of weights, not a bundle",
                      .expected = "a directory made by fam-export",
                      .fix = "export it first: fam-export --model " + path + " --output engines/" +
                             path_stem(path)});
  }
  if (path_name(path) == kManifestName) {
    return not_found({.what = path + " is the manifest of a bundle",
                      .expected = "the directory that holds it",
                      .fix = "use " + path_parent(path)});
  }
  return not_found({.what = path + " is a file, not a bundle",
                    .expected = "a directory with manifest.json",
                    .fix = "make one with fam-export --output DIRECTORY"});
}

// Names in the folder `path` but the hidden ones, sorted; none if it cannot be listed.
std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  std::error_code failed;
  fs::directory_iterator entry(system_path(path), failed);
  for (; !failed && entry != fs::directory_iterator(); entry.increment(failed)) {
    const std::u8string name = entry->path().filename().u8string();
    if (!name.starts_with(u8'.')) names.emplace_back(name.begin(), name.end());
  }
  if (failed) return {};
  std::ranges::sort(names);
  return names;
}

// Bundles directly inside `path`, for somebody who named the folder above.
std::vector<std::string> bundles_below(const std::string& path) {
  std::vector<std::string> names = names_in(path);
  names.resize(std::min(names.size(), kMaxFoldersLookedAt));
  std::vector<std::string> bundles;
  for (const std::string& name : names) {
    const std::string folder = path_below(path, name);
    if (is_file(path_below(folder, kManifestName))) bundles.push_back(folder);
  }
  return bundles;
}

}  // namespace

Error not_a_bundle(const std::string& path) {
  const fs::file_type type = type_at(path);
  if (type == fs::file_type::not_found) {
    return not_found({.what = "there is no bundle at " + path,
                      .expected = "a directory with manifest.json",
                      .fix = "make one with fam-export --output " + path});
  }
  if (type != fs::file_type::directory) return not_a_directory(path);
  const auto is_there = [&](const char* mark) { return is_file(path_below(path, mark)); };
  if (std::ranges::any_of(kCheckpointMarks, is_there)) {
    return not_found({.what = path + " is a checkpoint, not a bundle",
                      .expected = "a directory made by fam-export",
                      .fix = "export it first: fam-export --model " + path + " --output engines/" +
                             path_name(path)});
  }
  const std::vector<std::string> below = bundles_below(path);
  return not_found({.what = path + " is not a bundle",
                    .got = repr("no manifest.json"),
                    .expected = "a directory made by fam-export",
                    .fix = below.empty() ? "make one with fam-export --output DIRECTORY"
                                         : "did you mean " + below.front() + "?"});
}

}  // namespace libfam
