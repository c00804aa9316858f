#include "base/python_text.h"

#include <utf8proc.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace libfam {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// The code point that begins at `position`, and how many bytes it has; 0 bytes if it is malformed.
std::size_t decode_at(std::string_view text, std::size_t position, char32_t& c) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(position);
  if (first < 0x80) {
    c = first;
    return 1;
  }
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || position + length > text.size()) return 0;
  c = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(position + i) & 0xC0) != 0x80) return 0;
    c = (c << 6) | (byte(position + i) & 0x3Fu);
  }
  constexpr std::array<char32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
  return c < kSmallest[length] || c > 0x10FFFF || surrogate ? 0 : length;
}

void append_utf8(std::string& text, char32_t c) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count));
}

void append_hex(std::string& text, char32_t c, int digits) {
  constexpr const char* kHex = "0123456789abcdef";
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) text += kHex[(c >> shift) & 0xF];
}

// \n, \xNN, \uNNNN or \UNNNNNNNN, as repr() and the codec "unicode_escape" write it.
void append_escaped(std::string& text, char32_t c) {
  switch (c) {
    case '\n':
      text += "\\n";
      return;
    case '\r':
      text += "\\r";
      return;
    case '\t':
      text += "\\t";
      return;
    default:
      break;
  }
  text += c <= 0xFF ? "\\x" : c <= 0xFFFF ? "\\u" : "\\U";
  append_hex(text, c, c <= 0xFF ? 2 : c <= 0xFFFF ? 4 : 8);
}

// Significant digits and the decimal exponent of a finite number that is not 0: d.ddd times 10^e.
struct Decimal {
  std::string digits;
  int exponent;
};

Decimal decimal_from(std::string_view scientific) {
  const std::size_t e = scientific.find('e');
  Decimal found;
  for (const char c : scientific.substr(0, e)) {
    if (c != '.') found.digits += c;
  }
  std::string_view exponent = scientific.substr(e + 1);
  if (exponent.front() == '+') exponent.remove_prefix(1);
  std::from_chars(exponent.data(), exponent.data() + exponent.size(), found.exponent);
  return found;
}

std::string fixed_text(const Decimal& number) {
  const auto count = static_cast<int>(number.digits.size());
  if (number.exponent < 0) {
    return "0." + std::string(static_cast<std::size_t>(-number.exponent - 1), '0') + number.digits;
  }
  if (count <= number.exponent + 1) {
    return number.digits + std::string(static_cast<std::size_t>(number.exponent + 1 - count), '0');
  }
  const auto whole = static_cast<std::size_t>(number.exponent + 1);
  return number.digits.substr(0, whole) + "." + number.digits.substr(whole);
}

// Python writes at least two digits of an exponent: 1e-05.
std::string exponent_text(const Decimal& number) {
  std::string text = number.digits.substr(0, 1);
  if (number.digits.size() > 1) text += "." + number.digits.substr(1);
  const int size = std::abs(number.exponent);
  text += number.exponent < 0 ? "e-" : "e+";
  if (size < 10) text += '0';
  return text + std::to_string(size);
}

std::string not_finite_text(double value) {
  if (std::isnan(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

std::string with_sign(double value, const std::string& text) {
  return std::signbit(value) ? "-" + text : text;
}

template <class... Format>
Decimal decimal_of(double value, Format... format) {
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), std::fabs(value),
                                 std::chars_format::scientific, format...);
  return decimal_from({buffer.data(), static_cast<std::size_t>(end.ptr - buffer.data())});
}

std::string listed(const std::vector<Repr>& items) {
  std::string text;
  for (const Repr& item : items) {
    if (!text.empty()) text += ", ";
    text += item.text;
  }
  return text;
}

}  // namespace

Repr repr(std::string_view text) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string shown(1, quote);
  for (const char32_t c : code_points(text)) {
    if (c == static_cast<char32_t>(quote) || c == U'\\') {
      shown += '\\';
      shown += static_cast<char>(c);
    } else if (is_printable(c)) {
      append_utf8(shown, c);
    } else {
      append_escaped(shown, c);
    }
  }
  return {shown + quote};
}

Repr repr(bool value) { return {value ? "True" : "False"}; }
Repr repr(std::int64_t value) { return {std::to_string(value)}; }
Repr repr(std::uint64_t value) { return {std::to_string(value)}; }

Repr repr(double value) {
  if (!std::isfinite(value)) return {not_finite_text(value)};
  if (value == 0) return {with_sign(value, "0.0")};
  const Decimal number = decimal_of(value);
  if (number.exponent < -4 || number.exponent >= 16) {
    return {with_sign(value, exponent_text(number))};
  }
  const std::string text = fixed_text(number);
  const bool whole = text.find('.') == std::string::npos;
  return {with_sign(value, whole ? text + ".0" : text)};
}

Repr repr_none() { return {"None"}; }
Repr repr_list(const std::vector<Repr>& items) { return {"[" + listed(items) + "]"}; }

Repr repr_tuple(const std::vector<Repr>& items) {
  return {"(" + listed(items) + (items.size() == 1 ? ",)" : ")")};
}

Repr repr_texts(const std::vector<std::string>& items) {
  std::vector<Repr> shown;
  shown.reserve(items.size());
  for (const std::string& item : items) shown.push_back(repr(item));
  return repr_list(shown);
}

std::string general_text(double value) {
  constexpr int kSignificant = 6;
  if (!std::isfinite(value)) return not_finite_text(value);
  if (value == 0) return with_sign(value, "0");
  Decimal number = decimal_of(value, kSignificant - 1);
  while (number.digits.size() > 1 && number.digits.back() == '0') number.digits.pop_back();
  const bool fixed = number.exponent >= -4 && number.exponent < kSignificant;
  return with_sign(value, fixed ? fixed_text(number) : exponent_text(number));
}

bool is_utf8(std::string_view text, std::size_t* bad_byte) {
  char32_t c = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = decode_at(text, i, c);
    if (length == 0) {
      if (bad_byte != nullptr) *bad_byte = i;
      return false;
    }
    i += length;
  }
  return true;
}

std::u32string code_points(std::string_view text) {
  std::u32string points;
  points.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    char32_t c = kReplacement;
    const std::size_t length = decode_at(text, i, c);
    points.push_back(length == 0 ? kReplacement : c);
    i += length == 0 ? 1 : length;
  }
  return points;
}

std::string utf8_from(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (const char32_t c : text) append_utf8(bytes, c);
  return bytes;
}

std::size_t length_in_code_points(std::string_view text) {
  std::size_t count = 0;
  char32_t c = 0;
  for (std::size_t i = 0; i < text.size(); ++count) {
    const std::size_t length = decode_at(text, i, c);
    i += length == 0 ? 1 : length;
  }
  return count;
}

bool is_printable(char32_t c) {
  if (c == U' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool is_printable(std::string_view text) {
  for (const char32_t c : code_points(text)) {
    if (!is_printable(c)) return false;
  }
  return true;
}

bool is_space(char32_t c) {
  if ((c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85) return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

std::string strip(std::string_view text) {
  const std::u32string points = code_points(text);
  std::size_t begin = 0;
  std::size_t end = points.size();
  while (begin < end && is_space(points[begin])) ++begin;
  while (end > begin && is_space(points[end - 1])) --end;
  return utf8_from(std::u32string_view(points).substr(begin, end - begin));
}

std::string on_one_line(std::string_view text) {
  std::string line;
  bool gap = false;
  for (const char32_t c : code_points(text)) {
    if (is_space(c)) {
      gap = true;
      continue;
    }
    if (gap && !line.empty()) line += ' ';
    gap = false;
    if (is_printable(c)) {
      append_utf8(line, c);
    } else {
      append_escaped(line, c);
    }
  }
  return line;
}

std::string joined(const std::vector<std::string>& items, std::string_view separator) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += separator;
    text += items[i];
  }
  return text;
}

}  // namespace libfam
