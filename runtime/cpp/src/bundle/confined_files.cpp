// Systems that can open relative to a directory without following links.
#if !defined(_WIN32) && !defined(FAM_PORTABLE_FILES)

#include "bundle/confined_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "base/descriptor.h"
#include "bundle/file_errors.h"
#include "bundle/path_text.h"
#include "bundle/paths.h"

namespace libfam {
namespace {

std::vector<std::string> split(std::string_view name) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    parts.emplace_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "?";
}

// Refuses links, and anything but directories on the way to one plain file.
void check_component(const struct stat& status, std::string_view name, bool last) {
  if (S_ISLNK(status.st_mode)) throw refused_file(name, "is a link", "a symbolic link");
  if (!last) {
    if (!S_ISDIR(status.st_mode)) {
      throw refused_file(name, "is on the way to a file", "no directory");
    }
    return;
  }
  if (!S_ISREG(status.st_mode)) {
    throw refused_file(name, "is not a plain file", kind_of(status.st_mode));
  }
  if (status.st_nlink > 1) {
    throw refused_file(name, "has further names (hard links)",
                       std::to_string(status.st_nlink) + " names");
  }
}

FileStatus status_from(const struct stat& status) {
#ifdef __APPLE__
  const timespec& modified = status.st_mtimespec;
#else
  const timespec& modified = status.st_mtim;
#endif
  return {.device = static_cast<std::uint64_t>(status.st_dev),
          .inode = static_cast<std::uint64_t>(status.st_ino),
          .size = static_cast<std::uint64_t>(status.st_size),
          .modified_ns = static_cast<std::int64_t>(modified.tv_sec) * 1'000'000'000 +
                         static_cast<std::int64_t>(modified.tv_nsec)};
}

template <typename Call>
auto retried(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

Descriptor open_root(const std::string& root, std::string_view name) {
  Descriptor opened(
      retried([&] { return ::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (opened.number() < 0) throw unreadable_file(name, errno);
  return opened;
}

Descriptor open_at(const Descriptor& directory, const std::string& part, int flags,
                   std::string_view name) {
  const int all_flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags;
  Descriptor opened(retried([&] { return ::openat(directory.number(), part.c_str(), all_flags); }));
  if (opened.number() >= 0) return opened;
  const int error_number = errno;
  if (error_number == ENOENT) throw missing_file(name);
  if (error_number == EACCES || error_number == EPERM) throw unreadable_file(name, error_number);
  throw refused_file(name, "changed while it was opened", system_words(error_number));
}

}  // namespace

FileStatus confined_status(const std::string& root, std::string_view name) {
  const std::vector<std::string> parts = split(check_name(name));
  std::string below;
  struct stat status{};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    below += (i == 0 ? "" : "/") + parts[i];
    if (::lstat(path_below(root, below).c_str(), &status) != 0) {
      const int error_number = errno;
      if (error_number == ENOENT || error_number == ENOTDIR) throw missing_file(name);
      throw unreadable_file(name, error_number);
    }
    check_component(status, below, i + 1 == parts.size());
  }
  return status_from(status);
}

struct ConfinedFile::Handle {
  Descriptor descriptor;
};

ConfinedFile::ConfinedFile(const std::string& root, std::string_view name) {
  // The look at the path tells in words what is wrong; the opening does not depend on it.
  confined_status(root, name);
  const std::vector<std::string> parts = split(name);
  Descriptor directory = open_root(root, name);
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    directory = open_at(directory, parts[i], O_DIRECTORY, name);
  }
  // A pipe put there in the meantime must not make the opening wait.
  handle_ = std::make_unique<Handle>(Handle{open_at(directory, parts.back(), O_NONBLOCK, name)});
  struct stat status{};
  if (::fstat(handle_->descriptor.number(), &status) != 0) throw unreadable_file(name, errno);
  check_component(status, name, true);
  status_ = status_from(status);
}

ConfinedFile::~ConfinedFile() = default;

std::size_t ConfinedFile::read_at(std::uint64_t offset, void* out, std::size_t count) const {
  std::size_t done = 0;
  while (done < count) {
    const auto begin = static_cast<off_t>(offset + done);
    const ssize_t got = retried([&] {
      return ::pread(handle_->descriptor.number(), static_cast<char*>(out) + done, count - done,
                     begin);
    });
    if (got < 0) throw std::system_error(errno, std::generic_category());
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

}  // namespace libfam

#endif
