// Any bytes as a text, and any bytes as a tokenizer.json: tokens of the text, or bundle_damaged.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/python_text.h"
#include "text/tokenizer.h"

namespace {

constexpr std::string_view kTokenizer = R"json({
  "version": "1.0",
  "added_tokens": [
    {"id": 9, "content": "<|startoftext|>", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false, "special": true},
    {"id": 10, "content": "Cat", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": true, "special": false}],
  "normalizer": {"type": "Sequence", "normalizers": [
    {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
    {"type": "Lowercase"}]},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex":
     "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
     "behavior": "Removed", "invert": true},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
  "post_processor": null,
  "model": {"type": "BPE", "unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>",
    "vocab": {"a": 0, "a</w>": 1, "b": 2, "ab": 3, "aba</w>": 4, "Ã": 5, "©</w>": 6, "Ã©</w>": 7,
              "aa": 11, "<|endoftext|>": 8, "<|startoftext|>": 9},
    "merges": [["a", "b"], ["a", "a"], ["ab", "a</w>"], ["Ã", "©</w>"]]}})json";

void require(bool holds) {
  if (!holds) std::abort();
}

// Tokens begin within the text, in order, and what does not fit is a part of it.
void check_text(const libfam::Tokenizer& tokenizer, std::string_view text) {
  const libfam::Encoding encoding = tokenizer.encode(text);
  require(encoding.ids.size() == encoding.starts.size());
  require(std::is_sorted(encoding.starts.begin(), encoding.starts.end()));
  require(encoding.starts.empty() || encoding.starts.back() < libfam::length_in_code_points(text));
  libfam::TextEncoderInfo encoder;
  encoder.max_length = 5;
  const libfam::InputIds result = tokenizer.input_ids(text, encoder);
  require(result.ids.size() == 5);
  require(!libfam::is_utf8(text) || text.find(result.cut) != std::string_view::npos);
  require(libfam::is_utf8(libfam::truncation_message(text, result.cut)));
}

void check_file(std::string_view bytes) {
  const libfam::Tokenizer tokenizer(bytes, "tokenizer.json");
  check_text(tokenizer, "Aba's CAT, e\u0301 <|startoftext|> 1 <|ENDOFTEXT|> \u4e2d");
}

void check_prompt(std::string_view bytes) { libfam::check_prompt("the prompt", bytes); }

template <class Check>
void expect(libfam::ErrorCode code, Check check, std::string_view bytes) {
  try {
    check(bytes);
  } catch (const libfam::Error& error) {
    require(error.code() == code);
    require(libfam::is_utf8(error.what()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const libfam::Tokenizer tokenizer(kTokenizer, "tokenizer.json");
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  expect(libfam::ErrorCode::bundle_damaged, check_file, bytes);
  expect(libfam::ErrorCode::invalid_request, check_prompt, bytes);
  check_text(tokenizer, bytes);
  return 0;
}
