#include "engines/tensorrt/private_file.h"

#include <utility>

#include "base/descriptor.h"
#include "base/error.h"

#ifndef _WIN32
#include <fcntl.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <vector>
#endif

namespace libfam {

PrivateFile::PrivateFile(PrivateFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), nbytes_(std::exchange(other.nbytes_, 0)) {}

PrivateFile& PrivateFile::operator=(PrivateFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(nbytes_, other.nbytes_);
  return *this;
}

#ifdef _WIN32

// Who may write a file is not asked in this way there, and a plan is native code.
namespace {
[[noreturn]] void refuse() {
  throw Error(ErrorCode::backend, {.what = "engines cannot be loaded on Windows yet",
                                   .expected = "a system with POSIX permissions",
                                   .fix = "use the onnxruntime backend"});
}
}  // namespace

PrivateFile::~PrivateFile() = default;
std::optional<PrivateFile> map_private_file(const std::string&, std::string&) { refuse(); }
bool private_folder_exists(const std::string&, const std::string&) { refuse(); }
void make_folders(const std::string&) { refuse(); }
void make_private_folder(const std::string&) { refuse(); }
void remove_file(const std::string&) { refuse(); }
std::optional<std::string> home_folder() { refuse(); }

#else

namespace {

constexpr mode_t kWritableByOthers = S_IWGRP | S_IWOTH;

bool others_may_write(const struct stat& status) {
  return status.st_uid != ::geteuid() || (status.st_mode & kWritableByOthers) != 0;
}

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string reason_of(int error_number) { return std::generic_category().message(error_number); }

// "drwxr-xr-x", as Python's stat.filemode writes it.
std::string mode_text(mode_t mode) {
  std::string text = S_ISDIR(mode)    ? "d"
                     : S_ISLNK(mode)  ? "l"
                     : S_ISBLK(mode)  ? "b"
                     : S_ISCHR(mode)  ? "c"
                     : S_ISFIFO(mode) ? "p"
                     : S_ISSOCK(mode) ? "s"
                                      : "-";
  for (const char c : std::string_view("rwxrwxrwx")) {
    const mode_t bit = mode_t{0400} >> (text.size() - 1);
    text += (mode & bit) != 0 ? c : '-';
  }
  const auto mark = [&text, mode](mode_t bit, std::size_t place, char with, char without) {
    if ((mode & bit) != 0) text[place] = text[place] == 'x' ? with : without;
  };
  mark(S_ISUID, 3, 's', 'S');
  mark(S_ISGID, 6, 's', 'S');
  mark(S_ISVTX, 9, 't', 'T');
  return text;
}

}  // namespace

PrivateFile::~PrivateFile() {
  if (nbytes_ != 0) ::munmap(data_, nbytes_);
}

std::optional<PrivateFile> map_private_file(const std::string& path, std::string& damage) {
  damage.clear();
  // Not blocking: opening a pipe that nobody writes to would wait for ever.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  const auto refuse = [&](const std::string& reason) {
    damage = file_name(path) + " " + reason;
    return std::nullopt;
  };
  if (file.number() < 0) {
    if (errno == ENOENT) return std::nullopt;
    return refuse("cannot be read (" + reason_of(errno) + ")");
  }
  struct stat status{};
  if (::fstat(file.number(), &status) != 0) {
    return refuse("cannot be read (" + reason_of(errno) + ")");
  }
  if (others_may_write(status)) return refuse("may be written by others");
  if (!S_ISREG(status.st_mode) || status.st_size == 0) return PrivateFile();
  const auto nbytes = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, nbytes, PROT_READ, MAP_SHARED, file.number(), 0);
  if (data == MAP_FAILED) return refuse("cannot be read (" + reason_of(errno) + ")");
  return PrivateFile(data, nbytes);
}

bool private_folder_exists(const std::string& folder, const std::string& root) {
  struct stat status{};
  // The root may be a link of the user's own; nothing below it may.
  const int done =
      folder == root ? ::stat(folder.c_str(), &status) : ::lstat(folder.c_str(), &status);
  if (done != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return false;
    throw storage_error(errno, folder);
  }
  if (S_ISDIR(status.st_mode) && !others_may_write(status)) return true;
  throw Error(ErrorCode::backend,
              {.what = "the engine cache " + folder + " is not safe: engines are native code",
               .got = repr("owner " + std::to_string(status.st_uid) + ", mode " +
                           mode_text(status.st_mode)),
               .expected = "a folder of this user's that nobody else may write to",
               .fix = "chmod -R go-w " + root + ", or give another folder by --cache-dir"});
}

void make_folders(const std::string& parent) {
  for (std::size_t slash = parent.find('/', 1);; slash = parent.find('/', slash + 1)) {
    const std::string folder = parent.substr(0, slash);
    if (!folder.empty() && ::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) {
      throw storage_error(errno, parent);
    }
    if (slash == std::string::npos) return;
  }
}

void make_private_folder(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw storage_error(errno, folder);
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw storage_error(errno, path);
}

std::optional<std::string> home_folder() {
  std::vector<char> buffer(16384);
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(::geteuid(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr || found->pw_dir == nullptr || *found->pw_dir == '\0') {
    return std::nullopt;
  }
  return std::string(found->pw_dir);
}

#endif

}  // namespace libfam
