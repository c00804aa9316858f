#include "text/added_tokens.h"

namespace libfam {

const AddedToken* AddedTokens::longest_at(std::u32string_view text) const {
  const AddedToken* longest = nullptr;
  for (const AddedToken& token : tokens_) {
    if (longest != nullptr && token.content.size() <= longest->content.size()) continue;
    if (text.substr(0, token.content.size()) == token.content) longest = &token;
  }
  return longest;
}

std::vector<Stretch> AddedTokens::split(std::u32string_view text) const {
  std::vector<Stretch> stretches;
  std::size_t begin = 0;
  for (std::size_t place = 0; place < text.size();) {
    const AddedToken* token = longest_at(text.substr(place));
    if (token == nullptr) {
      ++place;
      continue;
    }
    if (begin < place) stretches.push_back({begin, place});
    begin = place + token->content.size();
    stretches.push_back({place, begin, token});
    place = begin;
  }
  if (begin < text.size()) stretches.push_back({begin, text.size()});
  return stretches;
}

}  // namespace libfam
