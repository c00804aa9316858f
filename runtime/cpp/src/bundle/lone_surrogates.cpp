#include "bundle/lone_surrogates.h"

#include <algorithm>
#include <charconv>

namespace libfam {
namespace {

constexpr std::string_view kMark = "\uE000";
constexpr std::string_view kEscapedMark = "\\ue000";  // in JSON, and as repr() shows it
constexpr std::size_t kEscapeSize = 6;                // \uNNNN
constexpr unsigned kMarkUnit = 0xE000;

// The UTF-16 unit of the escape \uNNNN at `position`; nothing if none stands there.
std::optional<unsigned> unit_at(std::string_view json, std::size_t position) {
  const std::string_view escape = json.substr(std::min(position, json.size()), kEscapeSize);
  if (escape.size() < kEscapeSize || !escape.starts_with("\\u")) return std::nullopt;
  unsigned unit = 0;
  const char* end = escape.data() + escape.size();
  const auto read = std::from_chars(escape.data() + 2, end, unit, 16);
  return read.ptr == end ? std::optional(unit) : std::nullopt;
}

bool is_high(unsigned unit) { return unit >= 0xD800 && unit <= 0xDBFF; }
bool is_low(unsigned unit) { return unit >= 0xDC00 && unit <= 0xDFFF; }

// One character of the source: an escape, a pair of them, a byte, or a raw mark.
struct Piece {
  std::size_t size = 1;
  bool is_mark = false;
  bool is_lone_surrogate = false;
};

Piece piece_at(std::string_view json, std::size_t position) {
  if (json.substr(position).starts_with(kMark)) return {.size = kMark.size(), .is_mark = true};
  if (json[position] != '\\') return {};
  const std::optional<unsigned> unit = unit_at(json, position);
  if (!unit) return {.size = 2};
  const unsigned next = unit_at(json, position + kEscapeSize).value_or(0);
  if (is_high(*unit) && is_low(next)) return {.size = 2 * kEscapeSize};
  return {.size = kEscapeSize,
          .is_mark = *unit == kMarkUnit,
          .is_lone_surrogate = is_high(*unit) || is_low(*unit)};
}

bool holds_lone_surrogate(std::string_view json) {
  for (std::size_t i = json.find('\\'); i < json.size(); i = json.find('\\', i)) {
    const Piece piece = piece_at(json, i);
    if (piece.is_lone_surrogate) return true;
    i += piece.size;
  }
  return false;
}

std::string in_lower_case(std::string_view hexadecimal) {
  std::string text(hexadecimal);
  for (char& c : text) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

}  // namespace

std::optional<std::string> with_marked_surrogates(std::string_view json) {
  if (!holds_lone_surrogate(json)) return std::nullopt;
  std::string marked;
  for (std::size_t i = 0; i < json.size();) {
    const Piece piece = piece_at(json, i);
    const std::string_view source = json.substr(i, piece.size);
    if (piece.is_lone_surrogate) {
      marked += kEscapedMark;
      marked += in_lower_case(source.substr(2));
    } else {
      marked += source;
      if (piece.is_mark) marked += source;
    }
    i += piece.size;
  }
  return marked;
}

bool holds_marked_surrogate(std::string_view text) {
  for (std::size_t i = text.find(kMark); i < text.size(); i = text.find(kMark, i)) {
    i += kMark.size();
    if (!text.substr(i).starts_with(kMark)) return true;
    i += kMark.size();
  }
  return false;
}

Repr repr_of_marked(std::string_view text) {
  const std::string shown = repr(text).text;
  Repr unmarked;
  for (std::size_t i = 0; i < shown.size();) {
    const std::string_view rest = std::string_view(shown).substr(i);
    const std::size_t size = rest.starts_with(kEscapedMark) ? kEscapeSize : rest[0] == '\\' ? 2 : 1;
    const bool is_lone = size == kEscapeSize && !rest.substr(size).starts_with(kEscapedMark);
    unmarked.text += is_lone ? "\\u" : rest.substr(0, size);
    i += size == kEscapeSize && !is_lone ? 2 * size : size;
  }
  return unmarked;
}

}  // namespace libfam
