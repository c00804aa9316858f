#include "sampling/json_text.h"

#include "base/python_text.h"

namespace libfam {
namespace {

void append_escaped(std::string& json, char c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t";
  constexpr std::string_view kLetters = "\"\\bfnrt";
  const std::size_t letter = kEscaped.find(c);
  const auto code = static_cast<unsigned char>(c);
  if (letter != std::string_view::npos) {
    json += '\\';
    json += kLetters[letter];
  } else if (code < 0x20) {
    json += "\\u00";
    json += kHex[code >> 4];
    json += kHex[code & 0xF];
  } else {
    json += c;
  }
}

}  // namespace

std::string json_text(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) append_escaped(json, c);
  return json + "\"";
}

std::string json_object(const JsonMembers& members) {
  std::vector<std::string> items;
  for (const auto& [name, value] : members) items.push_back(json_text(name) + ": " + value);
  return "{" + joined(items, ", ") + "}";
}

std::string json_list(const std::vector<std::string>& items) {
  return "[" + joined(items, ", ") + "]";
}

}  // namespace libfam
