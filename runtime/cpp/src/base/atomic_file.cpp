#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <random>
#include <utility>

#include "base/descriptor.h"
#include "base/error.h"

namespace libfam {
namespace {

constexpr std::size_t kTemporaryNameCharacters = 32;
constexpr const char* kTemporarySuffix = ".partial";
constexpr int kHexDigits = 8;

// A name that is removed again unless it was given away.
class TemporaryName {
 public:
  explicit TemporaryName(std::string path) : path_(std::move(path)) {}
  ~TemporaryName() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;

  const char* path() const { return path_.c_str(); }
  void forget() { path_.clear(); }

 private:
  std::string path_;
};

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

// Eight hexadecimal digits that another writer of the same file does not have.
std::string token() {
  std::array<char, kHexDigits> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(),
                                 static_cast<std::uint32_t>(std::random_device{}()), 16);
  const std::string text(digits.data(), end.ptr);
  return std::string(kHexDigits - text.size(), '0') + text;
}

std::string temporary_path(const std::string& path) {
  const std::string folder = folder_of(path);
  const std::u32string name = code_points(std::string_view(path).substr(folder.size()));
  return folder + utf8_from(std::u32string_view(name).substr(0, kTemporaryNameCharacters)) + "." +
         token() + kTemporarySuffix;
}

bool write_all(int descriptor, const std::vector<std::uint8_t>& content) {
  for (std::size_t done = 0; done < content.size();) {
    const ssize_t count = ::write(descriptor, content.data() + done, content.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    done += static_cast<std::size_t>(count);
  }
  return true;
}

// A rename is durable once its folder is synced, on disks that can do that.
bool sync_folder(const std::string& folder) {
  const Descriptor opened(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC));
  if (opened.is_open() && ::fsync(opened.number()) == 0) return true;
  return errno == EINVAL || errno == ENOTSUP || errno == EACCES || errno == EBADF;
}

}  // namespace

void write_atomically(const std::string& path, const std::vector<std::uint8_t>& content,
                      FileAccess access) {
  const auto check = [&path](bool done) {
    if (!done) throw storage_error(errno, path);
  };
  const std::string name = temporary_path(path);
  const mode_t mode = access == FileAccess::this_user ? 0600 : 0666;
  // O_EXCL: never through a link that somebody put there.
  Descriptor file(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  check(file.is_open());
  TemporaryName temporary(name);
  check(write_all(file.number(), content));
  check(::fsync(file.number()) == 0);
  check(file.close());
  check(std::rename(temporary.path(), path.c_str()) == 0);
  temporary.forget();
  check(sync_folder(folder_of(path)));
}

}  // namespace libfam
