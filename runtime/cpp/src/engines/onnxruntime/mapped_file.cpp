#include "engines/onnxruntime/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace libfam {
namespace {

Error cannot_be_read(const std::filesystem::path& path, int error_number) {
  return {ErrorCode::bundle_damaged,
          {.what = path.filename().string() + " cannot be read",
           .got = repr(std::generic_category().message(error_number)),
           .expected = "a readable file"}};
}

class OpenFile {
 public:
  explicit OpenFile(const std::filesystem::path& path)
      : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const OpenFile file(path);
  struct stat about{};
  if (file.descriptor() < 0 || ::fstat(file.descriptor(), &about) != 0) {
    throw cannot_be_read(path, errno);
  }
  if (about.st_size <= 0) return;
  const auto size = static_cast<std::size_t>(about.st_size);
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (memory == MAP_FAILED) throw cannot_be_read(path, errno);
  data_ = static_cast<std::byte*>(memory);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace libfam
