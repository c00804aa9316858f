// A file in memory, read only and without a copy.
#pragma once

#include <cstddef>
#include <filesystem>

namespace libfam {

class MappedFile {
 public:
  // Raises: Error(bundle_damaged) if it cannot be read. An empty file has no memory.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::byte* data() const { return data_; }  // must not be written to
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace libfam
