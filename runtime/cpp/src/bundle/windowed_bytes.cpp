#include "bundle/windowed_bytes.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace libfam {

WindowedBytes::WindowedBytes(std::string_view data) : size_(data.size()), window_(data) {}

WindowedBytes::WindowedBytes(std::uint64_t size, Read read, std::size_t window_bytes)
    : size_(size), read_(std::move(read)), window_bytes_(window_bytes) {}

std::string WindowedBytes::text(std::uint64_t begin, std::uint64_t end) {
  std::string found(static_cast<std::size_t>(end - begin), '\0');
  for (std::size_t i = 0; i < found.size(); ++i) found[i] = static_cast<char>(at(begin + i));
  return found;
}

void WindowedBytes::load(std::uint64_t position) {
  if (position >= size_) throw std::logic_error("a byte beyond the end");
  // Windows begin at multiples of their size, since messages are also walked from the last one
  // back.
  begin_ = position - position % window_bytes_;
  buffer_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(window_bytes_, size_ - begin_)));
  window_ = {};
  read_(begin_, buffer_.data(), buffer_.size());
  window_ = buffer_;
}

}  // namespace libfam
