#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/python_text.h"
#include "text/added_tokens.h"
#include "text/byte_pair_encoding.h"
#include "text/normalizer.h"
#include "text/tokenizer_file.h"
#include "text/word_splitter.h"

namespace libfam {

struct Tokenizer::Impl {
  explicit Impl(TokenizerFile file)
      : pattern(file.pattern),
        raw_tokens(std::move(file.raw_tokens)),
        normalized_tokens(std::move(file.normalized_tokens)),
        pairs(file.inner, file.last, file.merges) {}

  // Adds the tokens of text between added tokens, whose first character is number `first`.
  void encode_raw(std::u32string_view raw, std::size_t first, Encoding& encoding) const {
    const AlignedText text = normalized(aligned(raw, first));
    const std::u32string_view characters = text.characters;
    for (const Stretch& stretch : normalized_tokens.split(characters)) {
      if (stretch.token != nullptr) {
        encoding.ids.push_back(stretch.token->id);
        encoding.starts.push_back(text.starts[stretch.begin]);
        continue;
      }
      const auto part = characters.substr(stretch.begin, stretch.end - stretch.begin);
      for (const Word& word : words_of(part, pattern)) {
        encode_word(text, stretch.begin + word.begin, stretch.begin + word.end, encoding);
      }
    }
  }

  // Adds the tokens of characters [begin, end), a word. A token that begins within a character
  // begins where the character does.
  void encode_word(const AlignedText& text, std::size_t begin, std::size_t end,
                   Encoding& encoding) const {
    std::string bytes;
    std::vector<std::size_t> starts;  // of each byte
    for (std::size_t i = begin; i < end; ++i) {
      bytes += utf8_from(std::u32string_view(&text.characters[i], 1));
      starts.resize(bytes.size(), text.starts[i]);
    }
    for (const WordToken& token : pairs.encode(bytes)) {
      encoding.ids.push_back(token.id);
      encoding.starts.push_back(starts[token.first_byte]);
    }
  }

  WordPattern pattern;
  AddedTokens raw_tokens;
  AddedTokens normalized_tokens;
  BytePairEncoding pairs;
};

Tokenizer::Tokenizer(std::string_view data, const std::string& name)
    : impl_(std::make_unique<Impl>(TokenizerFile::from_bytes(data, name))) {}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

Encoding Tokenizer::encode(std::string_view text) const {
  const std::u32string characters = code_points(text);
  const std::u32string_view whole = characters;
  Encoding encoding;
  for (const Stretch& stretch : impl_->raw_tokens.split(whole)) {
    if (stretch.token != nullptr) {
      encoding.ids.push_back(stretch.token->id);
      encoding.starts.push_back(stretch.begin);
    } else {
      impl_->encode_raw(whole.substr(stretch.begin, stretch.end - stretch.begin), stretch.begin,
                        encoding);
    }
  }
  return encoding;
}

InputIds Tokenizer::input_ids(std::string_view text, const TextEncoderInfo& encoder) const {
  constexpr std::int64_t kStartAndEnd = 2;
  const auto room = static_cast<std::size_t>(encoder.max_length - kStartAndEnd);
  const Encoding encoding = encode(text);
  const std::size_t kept = std::min(encoding.ids.size(), room);
  InputIds result;
  if (encoding.ids.size() > room) {
    const std::u32string characters = code_points(text);
    const auto rest = std::u32string_view(characters).substr(encoding.starts[room]);
    result.cut = strip(utf8_from(rest));
  }
  result.ids.reserve(static_cast<std::size_t>(encoder.max_length));
  result.ids.push_back(encoder.bos_token_id);
  result.ids.insert(result.ids.end(), encoding.ids.begin(),
                    encoding.ids.begin() + static_cast<std::ptrdiff_t>(kept));
  result.ids.push_back(encoder.eos_token_id);
  result.ids.resize(static_cast<std::size_t>(encoder.max_length), encoder.pad_token_id);
  return result;
}

}  // namespace libfam
