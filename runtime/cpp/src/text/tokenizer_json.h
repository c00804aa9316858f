// The JSON of a tokenizer.json: its two long lists by themselves, and the rest as a document.
//
// Included by .cpp files only, for nlohmann_json is slow to compile.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace libfam {

// What is wrong with a tokenizer.json, in the words that its error shows.
class TokenizerFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct TokenizerJson {
  nlohmann::json document;  // without model.vocab and model.merges
  std::unordered_map<std::string, std::uint32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;

  // Bounds what a hostile file costs: CLIP has 49,408 tokens and 48,894 merges.
  static constexpr std::size_t kMaxEntries = 262'144;
  static constexpr std::size_t kMaxDepth = 16;
  static constexpr std::size_t kMaxValues = 4'096;  // in `document`

  // Raises: TokenizerFault.
  static TokenizerJson parse(std::string_view data);
};

}  // namespace libfam
