// Tokens that are found in a text as they are written, before it is split into words.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/byte_pair_encoding.h"

namespace libfam {

struct AddedToken {
  std::u32string content;
  TokenId id;
};

// A stretch of a text, characters [begin, end): an added token, or text between them.
struct Stretch {
  std::size_t begin;
  std::size_t end;
  const AddedToken* token = nullptr;
};

// Constant after construction.
class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {}

  // All of `text`, in order; none of the stretches is empty. Of the tokens that begin at one place
  // the longest counts, and they do not overlap.
  std::vector<Stretch> split(std::u32string_view text) const;

 private:
  const AddedToken* longest_at(std::u32string_view text) const;

  std::vector<AddedToken> tokens_;
};

}  // namespace libfam
