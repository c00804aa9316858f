#include "base/error.h"
#include "base/python_text.h"
#include "text/tokenizer.h"

namespace libfam {
namespace {

// Longer texts are refused: a model reads 75 tokens, and tokenizing takes time.
constexpr std::size_t kMaxPromptCharacters = 20'000;

}  // namespace

void check_prompt(const std::string& what, std::string_view text, bool may_be_empty) {
  std::size_t bad_byte = 0;
  if (!is_utf8(text, &bad_byte)) {
    throw Error(ErrorCode::invalid_request,
                {.what = what + " is not valid Unicode",
                 .got = repr("byte " + std::to_string(bad_byte) + " is not UTF-8"),
                 .expected = "text in UTF-8",
                 .fix = "check the encoding of the terminal or of the file it came from"});
  }
  if (!may_be_empty && strip(text).empty()) {
    throw Error(ErrorCode::invalid_request, {.what = what + " is empty",
                                             .got = repr(text),
                                             .expected = "some words",
                                             .fix = "say what to draw"});
  }
  const std::size_t length = length_in_code_points(text);
  if (length > kMaxPromptCharacters) {
    throw Error(ErrorCode::invalid_request,
                {.what = what + " is too long",
                 .got = repr(std::to_string(length) + " characters"),
                 .expected = "at most " + std::to_string(kMaxPromptCharacters),
                 .fix = "shorten it: a text encoder reads 75 tokens"});
  }
}

}  // namespace libfam
