// Properties of characters as the tokenizers library (0.23) has them.
//
// It takes them from three versions of Unicode: normal form C from 9.0, letters and numbers from
// 16.0, lower case from 17.0. We take them from utf8proc, whatever its version from 15.0 to 18.0,
// and keep tables of the characters that came in between (unicode_properties.cpp). Characters that
// Unicode has had for longer never change in these properties.
#pragma once

namespace libfam {

bool is_letter(char32_t c);       // \p{L}
bool is_number(char32_t c);       // \p{N}
bool is_white_space(char32_t c);  // \s: not quite str.isspace()

// Lower case by one character alone: what is not covered is U+0130, which becomes two.
char32_t simple_lower_case(char32_t c);

// Whether `c` came after Unicode 9.0 and has a combining class or a canonical decomposition since:
// tokenizers knows neither.
bool is_unknown_to_composition(char32_t c);

}  // namespace libfam
