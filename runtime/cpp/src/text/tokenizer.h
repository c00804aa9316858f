// CLIP's byte-pair tokenizer from a bundle's tokenizer.json, and what a prompt may be.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"

namespace libfam {

// Checks that `text`, UTF-8, can be a prompt; `what` is "the prompt" or "the negative prompt".
// Raises: Error(invalid_request) if it is empty (unless it may be), too long, or no UTF-8.
void check_prompt(const std::string& what, std::string_view text, bool may_be_empty = false);

// Token ids of a text without special tokens, and where each begins in the text, in code points.
struct Encoding {
  std::vector<std::int64_t> ids;
  std::vector<std::size_t> starts;
};

struct InputIds {
  std::vector<std::int64_t> ids;  // [max_length]
  std::string cut;                // the end of the text that did not fit, stripped
};

// May be used by several threads at once.
class Tokenizer {
 public:
  // `data`: bytes of tokenizer.json; `name`: the file's name in messages.
  // Raises: Error(bundle_damaged) if it is no tokenizer of CLIP's kind.
  Tokenizer(std::string_view data, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // `text`: valid UTF-8.
  Encoding encode(std::string_view text) const;
  // Start token, the text's, end token, padding: int64 [max_length].
  InputIds input_ids(std::string_view text, const TextEncoderInfo& encoder) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The words of the warning that a prompt does not fit, as Python's PromptTruncated has them.
std::string truncation_message(std::string_view text, std::string_view cut);

}  // namespace libfam
