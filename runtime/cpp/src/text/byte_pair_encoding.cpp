#include "text/byte_pair_encoding.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>

namespace libfam {
namespace {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

std::uint64_t pair_of(TokenId left, TokenId right) {
  return (static_cast<std::uint64_t>(left) << 32) | right;
}

}  // namespace

struct BytePairEncoding::Symbol {
  TokenId id;
  std::size_t previous;
  std::size_t next;
  bool merged_away = false;
};

// Pairs of neighbours that could be merged, the first learnt first, then from the left.
class BytePairEncoding::Candidates {
 public:
  struct Candidate {
    std::uint32_t rank;
    std::size_t left;  // place of the left symbol
    TokenId merged;

    bool operator>(const Candidate& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };

  Candidates(const BytePairEncoding& encoding, const std::vector<Symbol>& symbols)
      : encoding_(encoding), symbols_(symbols) {}

  // Adds the pair of the symbol at `left` and the next one, if there is such a merge.
  void add(std::size_t left) {
    const Symbol& symbol = symbols_[left];
    if (symbol.next == kNone) return;
    if (const Rule* found = encoding_.rule(symbol.id, symbols_[symbol.next].id)) {
      queue_.push({found->rank, left, found->merged});
    }
  }

  bool empty() const { return queue_.empty(); }

  Candidate take() {
    const Candidate first = queue_.top();
    queue_.pop();
    return first;
  }

 private:
  const BytePairEncoding& encoding_;
  const std::vector<Symbol>& symbols_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue_;
};

BytePairEncoding::BytePairEncoding(const ByteSymbols& inner, const ByteSymbols& last,
                                   const std::vector<Merge>& merges)
    : inner_(inner), last_(last) {
  rules_.reserve(merges.size());
  std::uint32_t rank = 0;
  for (const Merge& merge : merges) {
    rules_.push_back({pair_of(merge.left, merge.right), rank++, merge.merged});
  }
  std::sort(rules_.begin(), rules_.end(), [](const Rule& a, const Rule& b) {
    return std::tie(a.pair, b.rank) < std::tie(b.pair, a.rank);  // the later of one pair first
  });
  const auto same_pair = [](const Rule& a, const Rule& b) { return a.pair == b.pair; };
  rules_.erase(std::unique(rules_.begin(), rules_.end(), same_pair), rules_.end());
}

const BytePairEncoding::Rule* BytePairEncoding::rule(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_of(left, right);
  const auto found =
      std::lower_bound(rules_.begin(), rules_.end(), pair,
                       [](const Rule& rule, std::uint64_t value) { return rule.pair < value; });
  return found != rules_.end() && found->pair == pair ? &*found : nullptr;
}

std::vector<BytePairEncoding::Symbol> BytePairEncoding::symbols_of(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    const bool is_last = i + 1 == word.size();
    symbols.push_back(
        {is_last ? last_[byte] : inner_[byte], i == 0 ? kNone : i - 1, is_last ? kNone : i + 1});
  }
  return symbols;
}

void BytePairEncoding::merge_all(std::vector<Symbol>& symbols) const {
  Candidates candidates(*this, symbols);
  for (std::size_t i = 0; i < symbols.size(); ++i) candidates.add(i);
  while (!candidates.empty()) {
    const auto candidate = candidates.take();
    Symbol& left = symbols[candidate.left];
    if (left.merged_away || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    // The pair may have changed since it was added; as in tokenizers, a pair that makes the same
    // token is merged all the same.
    const Rule* now = rule(left.id, right.id);
    if (now == nullptr || now->merged != candidate.merged) continue;

    left.id = candidate.merged;
    left.next = right.next;
    right.merged_away = true;
    if (left.next != kNone) symbols[left.next].previous = candidate.left;
    if (left.previous != kNone) candidates.add(left.previous);
    candidates.add(candidate.left);
  }
}

std::vector<WordToken> BytePairEncoding::encode(std::string_view word) const {
  std::vector<Symbol> symbols = symbols_of(word);
  merge_all(symbols);
  std::vector<WordToken> tokens;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (!symbols[i].merged_away) tokens.push_back({symbols[i].id, i});
  }
  return tokens;
}

}  // namespace libfam
