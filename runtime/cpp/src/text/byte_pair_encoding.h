// Byte pair encoding of words: pairs of symbols are merged in the order in which they were learnt.
//
// Sennrich et al., https://arxiv.org/abs/1508.07909, over bytes, as in GPT-2 and CLIP.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace libfam {

using TokenId = std::uint32_t;

struct Merge {
  TokenId left;
  TokenId right;
  TokenId merged;
};

// Ids of the 256 bytes as symbols.
using ByteSymbols = std::array<TokenId, 256>;

// A token of a word, and the byte of the word that it begins with.
struct WordToken {
  TokenId id;
  std::size_t first_byte;
};

// Constant after construction.
class BytePairEncoding {
 public:
  // `inner`, `last`: symbols of bytes within a word and at its end. `merges`: the first learnt
  // first; of two merges of one pair the later counts.
  BytePairEncoding(const ByteSymbols& inner, const ByteSymbols& last,
                   const std::vector<Merge>& merges);

  // The tokens of `word`, bytes, which is not empty.
  std::vector<WordToken> encode(std::string_view word) const;

 private:
  struct Rule {
    std::uint64_t pair;  // left id above right id
    std::uint32_t rank;
    TokenId merged;
  };
  struct Symbol;
  class Candidates;

  // Null if the pair is not merged.
  const Rule* rule(TokenId left, TokenId right) const;
  std::vector<Symbol> symbols_of(std::string_view word) const;
  void merge_all(std::vector<Symbol>& symbols) const;

  ByteSymbols inner_;
  ByteSymbols last_;
  std::vector<Rule> rules_;  // by pair
};

}  // namespace libfam
