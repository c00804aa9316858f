// A text that is being normalized, with the place in the original that each character comes from.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace libfam {

struct AlignedText {
  std::u32string characters;
  // [characters.size()]: where it begins in the original text, in code points; never decreases.
  std::vector<std::size_t> starts;

  void append(char32_t character, std::size_t start) {
    characters += character;
    starts.push_back(start);
  }
};

// `text` as it is; its first character is number `first` of the original.
AlignedText aligned(std::u32string_view text, std::size_t first = 0);

}  // namespace libfam
