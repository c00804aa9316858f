// Tokenizers: several threads, moves, and what hostile files and texts may cost.
#include <doctest/doctest.h>

#include <algorithm>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "text/byte_pair_encoding.h"
#include "text/tokenizer.h"

namespace libfam {
namespace {

constexpr const char* kHead = R"json({"version": "1.0", "normalizer": {"type": "Sequence",
  "normalizers": [{"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}]},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
     "behavior": "Removed", "invert": true},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
  "model": {"type": "BPE", "unk_token": "?", "end_of_word_suffix": "</w>", )json";

std::string file_of(const std::string& vocab, const std::string& merges) {
  return kHead + ("\"vocab\": {" + vocab + "}, \"merges\": [" + merges + "]}}");
}

std::string small_file() {
  return file_of(R"("?": 0, "a": 1, "a</w>": 2, "b": 3, "ab": 4, "aba</w>": 5)",
                 R"(["a", "b"], ["ab", "a</w>"])");
}

bool is_damaged(const std::string& data) {
  try {
    const Tokenizer tokenizer(data, "tokenizer.json");
    return false;
  } catch (const Error& error) {
    return error.code() == ErrorCode::bundle_damaged;
  }
}

// The first of equal merges in the text, the first learnt of all: literally, pair by pair.
std::vector<TokenId> merged_literally(std::vector<TokenId> symbols,
                                      const std::vector<Merge>& merges) {
  for (bool changed = true; changed;) {
    changed = false;
    for (const Merge& merge : merges) {
      for (std::size_t i = 0; i + 1 < symbols.size() && !changed; ++i) {
        if (symbols[i] != merge.left || symbols[i + 1] != merge.right) continue;
        symbols[i] = merge.merged;
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        changed = true;
      }
      if (changed) break;
    }
  }
  return symbols;
}

// Of the processor, not of the clock on the wall: other tests may run beside this one.
double seconds_of(const Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t begin = std::clock();
  tokenizer.encode(text);
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

std::string repeated(const std::string& part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

}  // namespace

TEST_CASE("a word is merged as by the definition") {
  ByteSymbols symbols{};
  for (TokenId byte = 0; byte < symbols.size(); ++byte) symbols[byte] = byte;
  const std::vector<Merge> merges = {{'a', 'b', 300}, {'b', 'a', 301}, {300, 'a', 302},
                                     {'a', 'a', 303}, {303, 303, 304}, {302, 301, 305},
                                     {304, 'b', 306}, {301, 303, 307}};
  const BytePairEncoding encoding(symbols, symbols, merges);
  unsigned state = 1;
  for (int round = 0; round < 3000; ++round) {
    std::string word;
    std::vector<TokenId> expected;
    for (unsigned i = 0; i < 1 + state / 65536 % 12; ++i) {
      word += ((state >> (8 + i)) & 1) != 0 ? 'a' : 'b';
      expected.push_back(static_cast<TokenId>(word.back()));
    }
    state = state * 1103515245u + 12345u;
    std::vector<TokenId> found;
    for (const WordToken& token : encoding.encode(word)) found.push_back(token.id);
    CHECK(found == merged_literally(expected, merges));
  }
}

TEST_CASE("one tokenizer serves several threads, also after a move") {
  Tokenizer first(small_file(), "tokenizer.json");
  const Tokenizer tokenizer = std::move(first);
  const std::string text = repeated("Aba abab b\u0301a 7 ", 50);
  const Encoding expected = tokenizer.encode(text);
  std::vector<int> same(4, 0);
  std::vector<std::thread> threads;
  for (int& count : same) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        const Encoding found = tokenizer.encode(text);
        count += found.ids == expected.ids && found.starts == expected.starts ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::all_of(same.begin(), same.end(), [](int count) { return count == 20; }));
}

TEST_CASE("the longest prompt takes no time, whatever it is made of") {
  const Tokenizer tokenizer(small_file(), "tokenizer.json");
  for (const std::string part :
       {"a", "ab", "\u0301\u0323", "\u1100\u1161", "\U0001f600", " ", "1"}) {
    CHECK(seconds_of(tokenizer, repeated(part, 20'000)) < 1.0);
  }
}

TEST_CASE("a file that would cost too much is refused") {
  CHECK_FALSE(is_damaged(small_file()));
  CHECK(is_damaged(repeated("[", 100'000)));
  CHECK(is_damaged(repeated("{\"a\":", 100'000)));
  CHECK(is_damaged("{\"a\": [" + repeated("0,", 10'000) + "0]}"));
  std::string vocab = "\"?\": 0";
  for (int i = 0; i < 262'144; ++i) vocab += ",\"t" + std::to_string(i) + "\":1";
  CHECK(is_damaged(file_of(vocab, "")));
  CHECK(is_damaged(file_of("\"?\": 0", repeated("\"? ?\",", 262'145) + "\"? ?\"")));
}

TEST_CASE("every part of a file is needed") {
  const std::string whole = small_file();
  for (std::size_t size = 0; size < whole.size(); ++size) CHECK(is_damaged(whole.substr(0, size)));
}

}  // namespace libfam
