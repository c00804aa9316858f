#include "text/aligned_text.h"

namespace libfam {

AlignedText aligned(std::u32string_view text, std::size_t first) {
  AlignedText result{std::u32string(text), std::vector<std::size_t>(text.size())};
  for (std::size_t i = 0; i < text.size(); ++i) result.starts[i] = first + i;
  return result;
}

}  // namespace libfam
