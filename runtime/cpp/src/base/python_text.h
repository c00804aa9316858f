// Values as Python's repr() writes them, and text as Python's str sees it.
//
// An error's text is the same from both runtimes, and the Python one shows values by repr():
// 'text', (1, 'B'), 0.1, None. All text is UTF-8; lengths are code points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace libfam {

// What repr() gave: a type of its own, so that no text reaches an error without it.
struct Repr {
  std::string text;
};

Repr repr(std::string_view text);
inline Repr repr(const std::string& text) { return repr(std::string_view(text)); }
inline Repr repr(const char* text) { return repr(std::string_view(text)); }
Repr repr(bool value);
Repr repr(double value);
Repr repr(std::int64_t value);
Repr repr(std::uint64_t value);
inline Repr repr(int value) { return repr(static_cast<std::int64_t>(value)); }
Repr repr_none();
Repr repr_list(const std::vector<Repr>& items);
// A tuple of one item has Python's trailing comma.
Repr repr_tuple(const std::vector<Repr>& items);
Repr repr_texts(const std::vector<std::string>& items);  // a list of str

// A number as format(value, "g") writes it: six significant digits, no trailing zeros.
std::string general_text(double value);

// Whether `text` is valid UTF-8 without surrogates; else the offset of the first byte that is not
// goes to `bad_byte`, as in Python's UnicodeDecodeError.start.
bool is_utf8(std::string_view text, std::size_t* bad_byte = nullptr);

// Code points of valid UTF-8 (U+FFFD for each byte that is not), and back.
std::u32string code_points(std::string_view text);
std::string utf8_from(std::u32string_view text);
std::size_t length_in_code_points(std::string_view text);

// str.isprintable() of one code point, and of a whole text.
bool is_printable(char32_t c);
bool is_printable(std::string_view text);

// str.isspace() of one code point: what str.strip() and str.split() take away.
bool is_space(char32_t c);
std::string strip(std::string_view text);

// " ".join(text.split()), then every character that is not printable escaped as \xNN, \uNNNN…:
// what a message does with each of its parts.
std::string on_one_line(std::string_view text);

std::string joined(const std::vector<std::string>& items, std::string_view separator);

}  // namespace libfam
