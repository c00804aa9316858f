// Lone surrogates in JSON, which Python's str holds and UTF-8 does not: "\ud800" without its
// partner.
//
// They are refused, but in their turn, after what is wrong with the rest of the document; until
// then U+E000 and four hexadecimal digits stand for each, and a true U+E000 is written twice.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/python_text.h"

namespace libfam {

// `json` with its lone surrogates marked, line by line as before; nothing if it holds none.
std::optional<std::string> with_marked_surrogates(std::string_view json);

// Whether a text of a marked document holds a lone surrogate.
bool holds_marked_surrogate(std::string_view text);

// As Python shows the text that a text of a marked document stands for.
Repr repr_of_marked(std::string_view text);

}  // namespace libfam
