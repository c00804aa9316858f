#include "bundle/path_text.h"

#include <algorithm>

namespace libfam {
namespace {

// "/", "//" or nothing: POSIX leaves it to the system what two slashes mean, and pathlib keeps
// them.
std::string_view root_of(std::string_view path) {
  const std::size_t slashes = path.find_first_not_of('/');
  const std::size_t count = slashes == std::string_view::npos ? path.size() : slashes;
  return path.substr(0, count == 2 ? 2 : count > 0 ? 1 : 0);
}

// Where the suffix begins in the last component: the whole length if it has none.
std::size_t suffix_start(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  const bool is_suffix = dot != std::string_view::npos && dot > 0 && dot + 1 < name.size();
  return is_suffix ? dot : name.size();
}

}  // namespace

std::string path_text(std::string_view path) {
  const std::string_view root = root_of(path);
  std::string text(root);
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, end);
    path.remove_prefix(std::min(end + 1, path.size()));
    if (part.empty() || part == ".") continue;
    if (text.size() > root.size()) text += '/';
    text += part;
  }
  return text.empty() ? "." : text;
}

std::string path_below(std::string_view folder, std::string_view name) {
  return path_text(std::string(folder) + "/" + std::string(name));
}

std::string path_name(std::string_view path) {
  if (path == ".") return "";
  const std::size_t slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

std::string path_parent(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  const std::string_view root = root_of(path);
  return std::string(slash < root.size() ? root : path.substr(0, slash));
}

std::string path_stem(std::string_view path) {
  const std::string name = path_name(path);
  return name.substr(0, suffix_start(name));
}

std::string path_suffix(std::string_view path) {
  const std::string name = path_name(path);
  return name.substr(suffix_start(name));
}

std::filesystem::path system_path(std::string_view path) {
  return {std::u8string(path.begin(), path.end())};
}

}  // namespace libfam
