// Systems without opening relative to a directory: the path is looked at before and after.
#if defined(_WIN32) || defined(FAM_PORTABLE_FILES)

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "bundle/confined_files.h"
#include "bundle/file_errors.h"
#include "bundle/path_text.h"
#include "bundle/paths.h"

namespace libfam {
namespace {

namespace fs = std::filesystem;

std::string kind_of(fs::file_type type) {
  switch (type) {
    case fs::file_type::directory:
      return "a directory";
    case fs::file_type::fifo:
      return "a pipe";
    case fs::file_type::socket:
      return "a socket";
    case fs::file_type::character:
    case fs::file_type::block:
      return "a device";
    default:
      return "?";
  }
}

bool is_link(fs::file_type type) {
#ifdef _MSC_VER
  if (type == fs::file_type::junction) return true;
#endif
  return type == fs::file_type::symlink;
}

[[noreturn]] void fail(std::string_view name, const std::error_code& error) {
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    throw missing_file(name);
  }
  throw unreadable_file(name, error.default_error_condition().value());
}

// Refuses links, and anything but directories on the way to one plain file.
void check_component(const fs::path& path, std::string_view below, std::string_view name,
                     bool last) {
  std::error_code failed;
  const fs::file_type type = fs::symlink_status(path, failed).type();
  if (type == fs::file_type::not_found) throw missing_file(name);
  if (failed) fail(name, failed);
  if (is_link(type)) throw refused_file(below, "is a link", "a symbolic link");
  if (!last) {
    if (type == fs::file_type::directory) return;
    throw refused_file(below, "is on the way to a file", "no directory");
  }
  if (type != fs::file_type::regular) {
    throw refused_file(below, "is not a plain file", kind_of(type));
  }
  const auto names = fs::hard_link_count(path, failed);
  if (failed) fail(name, failed);
  if (names > 1) {
    throw refused_file(below, "has further names (hard links)", std::to_string(names) + " names");
  }
}

bool same(const FileStatus& a, const FileStatus& b) {
  return a.size == b.size && a.modified_ns == b.modified_ns;
}

}  // namespace

FileStatus confined_status(const std::string& root, std::string_view name) {
  check_name(name);
  fs::path path;
  for (std::size_t end = 0; end < name.size();) {
    end = std::min(name.find('/', end + 1), name.size());
    const std::string_view below = name.substr(0, end);
    path = system_path(path_below(root, below));
    check_component(path, below, name, end == name.size());
  }
  std::error_code failed;
  FileStatus status;
  status.size = fs::file_size(path, failed);
  if (failed) fail(name, failed);
  const auto modified = fs::last_write_time(path, failed);
  if (failed) fail(name, failed);
  status.modified_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(modified.time_since_epoch()).count();
  return status;
}

struct ConfinedFile::Handle {
  std::ifstream stream;
};

ConfinedFile::ConfinedFile(const std::string& root, std::string_view name)
    : handle_(std::make_unique<Handle>()), status_(confined_status(root, name)) {
  const fs::path path = system_path(path_below(root, name));
  handle_->stream.rdbuf()->pubsetbuf(nullptr, 0);
  handle_->stream.open(path, std::ios::binary);
  if (!handle_->stream) throw unreadable_file(name, EACCES);
  if (!same(status_, confined_status(root, name))) {
    throw refused_file(name, "changed while it was opened", "another file");
  }
}

ConfinedFile::~ConfinedFile() = default;

std::size_t ConfinedFile::read_at(std::uint64_t offset, void* out, std::size_t count) const {
  std::ifstream& stream = handle_->stream;
  stream.clear();
  stream.seekg(static_cast<std::streamoff>(offset));
  if (!stream) throw std::system_error(EIO, std::generic_category());
  stream.read(static_cast<char*>(out), static_cast<std::streamsize>(count));
  if (stream.bad()) throw std::system_error(EIO, std::generic_category());
  return static_cast<std::size_t>(stream.gcount());
}

}  // namespace libfam

#endif
