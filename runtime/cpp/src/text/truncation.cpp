#include "base/python_text.h"
#include "text/tokenizer.h"

namespace libfam {
namespace {

constexpr std::size_t kMaxWarnedCharacters = 200;

}  // namespace

std::string truncation_message(std::string_view text, std::string_view cut) {
  const std::u32string characters = code_points(cut);
  std::string shown(cut);
  if (characters.size() > kMaxWarnedCharacters) {
    shown = utf8_from(std::u32string_view(characters).substr(0, kMaxWarnedCharacters)) + "…";
  }
  return "the prompt is too long for the text encoder; the model does not see: " +
         repr(shown).text + " (" + std::to_string(characters.size()) + " of " +
         std::to_string(length_in_code_points(text)) + " characters)";
}

}  // namespace libfam
