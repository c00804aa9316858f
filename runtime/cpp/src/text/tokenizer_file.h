// tokenizer.json of the tokenizers library, as far as it is of CLIP's kind.
//
// CLIP's kind: normal form C, white space to one space, lower case; words by CLIP's pattern
// (word_splitter.h); bytes as characters; byte pair encoding with "</w>" at the end of a word and
// an unknown token. Everything else is refused, even where the tokenizers library would run it:
// what could differ between the two runtimes is not run.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/byte_pair_encoding.h"
#include "text/word_splitter.h"

namespace libfam {

struct TokenizerFile {
  ByteSymbols inner{};
  ByteSymbols last{};
  std::vector<Merge> merges;
  std::vector<AddedToken> raw_tokens;         // found in the text as it was given
  std::vector<AddedToken> normalized_tokens;  // found in the normalized text
  WordPattern pattern;

  // Raises: Error(bundle_damaged); `name` is the file's name in the message.
  static TokenizerFile from_bytes(std::string_view data, const std::string& name);
};

}  // namespace libfam
