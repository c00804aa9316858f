// CLIP's pre-tokenizer: a normalized text into words, each of which is encoded by itself.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace libfam {

// How a tokenizer.json splits a text. CLIP's pattern is
//   <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
// where the two markers (as transformers wrote it before version 5) or the contractions may be
// missing; what it does not match is dropped. We do not run the file's pattern, but know it: a
// hostile one could cost any time, and libraries of regular expressions differ in what a letter is.
struct WordPattern {
  bool has_markers = true;
  bool has_contractions = true;
  // ByteLevel's use_regex. It splits each word by GPT-2's pattern, which changes markers alone.
  bool splits_markers = true;
};

// A word of a text: characters [begin, end).
struct Word {
  std::size_t begin;
  std::size_t end;
};

std::vector<Word> words_of(std::u32string_view text, const WordPattern& pattern);

}  // namespace libfam
