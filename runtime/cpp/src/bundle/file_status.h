// By what a later look can tell that a file is still the same.
#pragma once

#include <cstdint>

namespace libfam {

struct FileStatus {
  std::uint64_t device = 0;  // 0, like the inode, where the system does not say it
  std::uint64_t inode = 0;
  std::uint64_t size = 0;        // bytes
  std::int64_t modified_ns = 0;  // of the system's clock

  bool operator==(const FileStatus&) const = default;
};

}  // namespace libfam
