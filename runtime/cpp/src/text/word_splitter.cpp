#include "text/word_splitter.h"

#include <array>

#include "text/unicode_properties.h"

namespace libfam {
namespace {

enum class Kind { space, letter, number, other };

Kind kind_of(char32_t c) {
  if (is_letter(c)) return Kind::letter;
  if (is_number(c)) return Kind::number;
  return is_white_space(c) ? Kind::space : Kind::other;
}

constexpr std::array<std::u32string_view, 2> kMarkers = {U"<|startoftext|>", U"<|endoftext|>"};
constexpr std::array<std::u32string_view, 7> kContractions = {U"'s", U"'t",  U"'re", U"'ve",
                                                              U"'m", U"'ll", U"'d"};

// How many characters of `text` the first of `choices` that it begins with has; 0 if none.
template <std::size_t N>
std::size_t matched(std::u32string_view text, const std::array<std::u32string_view, N>& choices) {
  for (const std::u32string_view choice : choices) {
    if (text.substr(0, choice.size()) == choice) return choice.size();
  }
  return 0;
}

// The end of the word of one kind that begins at `begin`: a run, but one character of a number.
std::size_t end_of_run(std::u32string_view text, std::size_t begin, Kind kind) {
  std::size_t end = begin + 1;
  if (kind == Kind::number) return end;
  while (end < text.size() && kind_of(text[end]) == kind) ++end;
  return end;
}

// `<|`, the letters, and `|>`: what GPT-2's pattern makes of a marker.
void append_marker(std::vector<Word>& words, std::size_t begin, std::size_t end, bool split) {
  if (!split) {
    words.push_back({begin, end});
    return;
  }
  constexpr std::size_t kBracket = 2;
  words.push_back({begin, begin + kBracket});
  words.push_back({begin + kBracket, end - kBracket});
  words.push_back({end - kBracket, end});
}

}  // namespace

std::vector<Word> words_of(std::u32string_view text, const WordPattern& pattern) {
  std::vector<Word> words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::u32string_view rest = text.substr(begin);
    std::size_t end = begin + (pattern.has_markers ? matched(rest, kMarkers) : 0);
    if (end != begin) {
      append_marker(words, begin, end, pattern.splits_markers);
      begin = end;
      continue;
    }
    end = begin + (pattern.has_contractions ? matched(rest, kContractions) : 0);
    if (end == begin) {
      const Kind kind = kind_of(text[begin]);
      end = end_of_run(text, begin, kind);
      if (kind == Kind::space) {
        begin = end;
        continue;
      }
    }
    words.push_back({begin, end});
    begin = end;
  }
  return words;
}

}  // namespace libfam
