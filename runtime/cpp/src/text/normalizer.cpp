#include "text/normalizer.h"

#include <utility>

#include "text/composition.h"
#include "text/unicode_properties.h"

namespace libfam {
namespace {

constexpr char32_t kCapitalIWithDot = 0x130;
constexpr char32_t kDotAbove = 0x307;

}  // namespace

AlignedText normalized(AlignedText text) {
  const AlignedText source = composed(std::move(text));
  const std::size_t size = source.characters.size();
  AlignedText result;
  result.characters.reserve(size);
  result.starts.reserve(size);
  for (std::size_t i = 0; i < size; ++i) {
    const char32_t c = source.characters[i];
    if (is_white_space(c)) {
      const bool ends = i + 1 == size || !is_white_space(source.characters[i + 1]);
      if (ends) result.append(U' ', source.starts[i]);
    } else if (c == kCapitalIWithDot) {
      result.append(U'i', source.starts[i]);
      result.append(kDotAbove, source.starts[i]);
    } else {
      result.append(simple_lower_case(c), source.starts[i]);
    }
  }
  return result;
}

}  // namespace libfam
