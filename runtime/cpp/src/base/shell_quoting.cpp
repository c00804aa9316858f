#include "base/shell_quoting.h"

#include <algorithm>

namespace libfam {
namespace {

bool is_safe_in_a_shell(char c) {
  constexpr std::string_view kMarks = "@%+=:,./-_";
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         kMarks.find(c) != std::string_view::npos;
}

}  // namespace

std::string shell_quoted(std::string_view text) {
  if (!text.empty() && std::ranges::all_of(text, is_safe_in_a_shell)) return std::string(text);
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'') {
      word += R"('"'"')";
    } else {
      word += c;
    }
  }
  return word + "'";
}

}  // namespace libfam
