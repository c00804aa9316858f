// The bytes of a file seen through a window, so that a reader may walk a large file without holding
// it. Not a memory map: a file that is cut while it is mapped would end the whole program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace libfam {

class WindowedBytes {
 public:
  // Fills `out` with the `count` bytes at `offset`, which are there.
  using Read = std::function<void(std::uint64_t offset, char* out, std::size_t count)>;

  static constexpr std::size_t kWindowBytes = std::size_t{1} << 16;

  // Bytes in memory, which must outlive this.
  explicit WindowedBytes(std::string_view data);
  // `size` bytes behind `read`, whose errors pass through.
  WindowedBytes(std::uint64_t size, Read read, std::size_t window_bytes = kWindowBytes);

  std::uint64_t size() const { return size_; }

  // The byte at `position` < size().
  unsigned char at(std::uint64_t position) {
    if (position - begin_ >= window_.size()) load(position);
    return static_cast<unsigned char>(window_[static_cast<std::size_t>(position - begin_)]);
  }

  // The bytes in [begin, end), which lie in the file.
  std::string text(std::uint64_t begin, std::uint64_t end);

 private:
  void load(std::uint64_t position);

  std::uint64_t size_;
  Read read_;
  std::size_t window_bytes_ = 0;
  std::uint64_t begin_ = 0;
  std::string buffer_;
  std::string_view window_;  // of `buffer_`, or all of the memory
};

}  // namespace libfam
