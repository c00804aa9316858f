#include "text/composition.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "text/unicode_properties.h"

namespace libfam {
namespace {

// No character below it has a combining class, or composes with one below it.
constexpr char32_t kFirstCombining = 0x300;

// The base from which trailing Hangul consonants are counted, itself none of them: utf8proc
// composes a syllable with it all the same.
constexpr char32_t kTrailingBase = 0x11A7;

struct Part {
  char32_t character;
  int combining_class;
  // How many characters of the text it stands for: 0 if it is a later one of a decomposition.
  std::size_t taken;
  std::size_t place;  // in the decomposed text, before marks are sorted
};

int combining_class(char32_t c) {
  if (c < kFirstCombining || is_unknown_to_composition(c)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

void append_decomposed(std::vector<Part>& parts, char32_t c) {
  // The longest canonical decomposition has four characters.
  std::array<utf8proc_int32_t, 8> buffer{};
  utf8proc_ssize_t count = 1;
  buffer[0] = static_cast<utf8proc_int32_t>(c);
  if (c >= 0x80 && !is_unknown_to_composition(c)) {
    constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
    count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), buffer.data(),
                                static_cast<utf8proc_ssize_t>(buffer.size()), kOptions, nullptr);
  }
  if (count < 1 || static_cast<std::size_t>(count) > buffer.size()) {
    throw std::logic_error("utf8proc decomposed a character into too many");
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const auto part = static_cast<char32_t>(buffer[i]);
    parts.push_back(
        {part, combining_class(part), i == 0 ? std::size_t{1} : std::size_t{0}, parts.size()});
  }
}

// Canonical ordering: each run of combining characters by class, otherwise in their order.
void sort_marks(std::vector<Part>& parts) {
  const auto is_starter = [](const Part& part) { return part.combining_class == 0; };
  for (auto begin = parts.begin(); begin != parts.end();) {
    begin = std::find_if_not(begin, parts.end(), is_starter);
    const auto end = std::find_if(begin, parts.end(), is_starter);
    std::sort(begin, end, [](const Part& a, const Part& b) {
      return std::tie(a.combining_class, a.place) < std::tie(b.combining_class, b.place);
    });
    begin = end;
  }
}

// The primary composite of two characters; 0 if there is none.
char32_t composite(char32_t first, char32_t second) {
  if (second < kFirstCombining || second == kTrailingBase) return 0;
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  std::array<utf8proc_int32_t, 2> pair = {static_cast<utf8proc_int32_t>(first),
                                          static_cast<utf8proc_int32_t>(second)};
  if (utf8proc_normalize_utf32(pair.data(), 2, kOptions) != 1) return 0;
  const auto found = static_cast<char32_t>(pair[0]);
  return is_unknown_to_composition(found) ? 0 : found;
}

// Canonical composition: a character joins the last starter unless one between them, of a class
// that is not lower, blocks it.
std::vector<Part> recomposed(const std::vector<Part>& parts) {
  constexpr int kNone = -1;
  std::vector<Part> result;
  result.reserve(parts.size());
  std::size_t starter = parts.size();  // its place in `result`; none yet
  int class_between = kNone;
  for (const Part& part : parts) {
    if (starter < result.size() && class_between < part.combining_class) {
      if (const char32_t found = composite(result[starter].character, part.character)) {
        result[starter].character = found;
        result[starter].taken += part.taken;
        continue;
      }
    }
    if (part.combining_class == 0) {
      starter = result.size();
      class_between = kNone;
    } else if (starter < result.size()) {
      class_between = part.combining_class;
    }
    result.push_back(part);
  }
  return result;
}

}  // namespace

AlignedText composed(AlignedText text) {
  const std::u32string& source = text.characters;
  if (std::all_of(source.begin(), source.end(), [](char32_t c) { return c < kFirstCombining; })) {
    return text;
  }
  std::vector<Part> parts;
  parts.reserve(source.size());
  for (const char32_t c : source) append_decomposed(parts, c);
  sort_marks(parts);

  // Alignment is by count, as in tokenizers: marks that changed places take the places in order.
  AlignedText result;
  std::size_t taken = 0;
  for (const Part& part : recomposed(parts)) {
    result.append(part.character, text.starts[part.taken == 0 ? taken - 1 : taken]);
    taken += part.taken;
  }
  return result;
}

}  // namespace libfam
