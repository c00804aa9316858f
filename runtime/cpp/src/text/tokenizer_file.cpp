#include "text/tokenizer_file.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/python_text.h"
#include "text/normalizer.h"
#include "text/tokenizer_json.h"

namespace libfam {
namespace {

using Json = nlohmann::json;

constexpr const char* kEndOfWord = "</w>";

// What an added token costs at each character of a text is bounded by these.
constexpr std::size_t kMaxAddedTokens = 64;
constexpr std::size_t kMaxAddedCharacters = 128;

constexpr std::string_view kMarkers = "<\\|startoftext\\|>|<\\|endoftext\\|>|";
constexpr std::string_view kContractions = "'s|'t|'re|'ve|'m|'ll|'d|";
constexpr std::string_view kWords = "[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

void require(bool holds, const std::string& fault) {
  if (!holds) throw TokenizerFault(fault);
}

bool is_absent_or(const Json& value, const Json& expected) {
  return value.is_null() || value == expected;
}

void check_normalizer(const Json& normalizer) {
  const Json spaces = {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", " "}};
  const Json expected = {
      {"type", "Sequence"},
      {"normalizers", Json::array({{{"type", "NFC"}}, spaces, {{"type", "Lowercase"}}})}};
  require(normalizer == expected, "another normalizer than CLIP's");
}

// Whether `text` begins with `prefix`, which is then taken off.
bool take(std::string_view& text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

WordPattern pattern_from(const Json& pre_tokenizer) {
  const std::string fault = "another pre_tokenizer than CLIP's";
  const Json& steps = member(pre_tokenizer, "pretokenizers");
  require(member(pre_tokenizer, "type") == "Sequence" && steps.is_array() && steps.size() == 2,
          fault);
  const Json& regex = member(member(steps[0], "pattern"), "Regex");
  require(regex.is_string(), fault);
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", regex}}},
                      {"behavior", "Removed"},
                      {"invert", true}};
  std::string_view text = regex.get_ref<const std::string&>();
  WordPattern pattern;
  pattern.has_markers = take(text, kMarkers);
  pattern.has_contractions = take(text, kContractions);
  require(steps[0] == split && text == kWords, fault);

  const Json& bytes = steps[1];
  const Json& splits_again = member(bytes, "use_regex");
  require(member(bytes, "type") == "ByteLevel" && member(bytes, "add_prefix_space") == false &&
              member(bytes, "trim_offsets").is_boolean() &&
              (splits_again.is_boolean() || splits_again.is_null()),
          fault);
  pattern.splits_markers = splits_again.is_null() || splits_again.get<bool>();
  return pattern;
}

void check_post_processor(const Json& processor) {
  // It adds the special tokens, which we do ourselves; but it could also move the offsets.
  require(processor.is_null() || (member(processor, "type") == "RobertaProcessing" &&
                                  member(processor, "trim_offsets") == false),
          "another post_processor than CLIP's");
}

void check_model(const Json& model) {
  require(member(model, "type") == "BPE", "another model than BPE");
  require(member(model, "dropout").is_null(), "a model with dropout");
  require(is_absent_or(member(model, "continuing_subword_prefix"), ""), "a prefix of subwords");
  require(member(model, "end_of_word_suffix") == kEndOfWord, "another end of a word than </w>");
  for (const char* option : {"fuse_unk", "byte_fallback", "ignore_merges"}) {
    require(is_absent_or(member(model, option), false), std::string("a model with ") + option);
  }
}

// The character that stands for each byte: itself if it is printable Latin-1, else one from U+0100.
std::string character_of(unsigned byte) {
  const auto printable = [](unsigned b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
  };
  char32_t character = static_cast<char32_t>(byte);
  if (!printable(byte)) {
    character = 0x100;
    for (unsigned b = 0; b < byte; ++b) character += printable(b) ? 0u : 1u;
  }
  return utf8_from(std::u32string_view(&character, 1));
}

class Reader {
 public:
  explicit Reader(const TokenizerJson& json) : json_(json), document_(json.document) {}

  TokenizerFile read() const {
    require(member(document_, "version") == "1.0", "another version than 1.0");
    check_normalizer(member(document_, "normalizer"));
    check_post_processor(member(document_, "post_processor"));
    check_model(member(document_, "model"));
    TokenizerFile file;
    file.pattern = pattern_from(member(document_, "pre_tokenizer"));
    read_symbols(file);
    read_merges(file);
    read_added_tokens(file);
    return file;
  }

 private:
  TokenId id_of(const std::string& token) const {
    const auto found = json_.vocabulary.find(token);
    if (found == json_.vocabulary.end()) {
      throw TokenizerFault("the token " + token + " that is not in vocab");
    }
    return found->second;
  }

  TokenId id_or(const std::string& token, TokenId unknown) const {
    const auto found = json_.vocabulary.find(token);
    return found == json_.vocabulary.end() ? unknown : found->second;
  }

  void read_symbols(TokenizerFile& file) const {
    const Json& unknown = member(member(document_, "model"), "unk_token");
    require(unknown.is_string(), "no unk_token");
    const TokenId id = id_of(unknown.get_ref<const std::string&>());
    for (unsigned byte = 0; byte < file.inner.size(); ++byte) {
      const std::string character = character_of(byte);
      file.inner[byte] = id_or(character, id);
      file.last[byte] = id_or(character + kEndOfWord, id);
    }
  }

  void read_merges(TokenizerFile& file) const {
    file.merges.reserve(json_.merges.size());
    for (const auto& [left, right] : json_.merges) {
      file.merges.push_back({id_of(left), id_of(right), id_of(left + right)});
    }
  }

  // Its number is the vocabulary's, or the next free one: tokenizers does not take the file's.
  void read_added_tokens(TokenizerFile& file) const {
    const Json& tokens = member(document_, "added_tokens");
    if (tokens.is_null()) return;
    require(tokens.is_array(), "added_tokens that are no list");
    require(tokens.size() <= kMaxAddedTokens, "too many added_tokens");
    std::map<std::string, TokenId> added;
    std::map<TokenId, Json> settings;  // of two with one number the later counts
    auto next = static_cast<TokenId>(json_.vocabulary.size());
    for (const Json& token : tokens) {
      const std::string content = checked_content(token);
      if (content.empty()) continue;
      const auto known = added.find(content);
      TokenId id = known != added.end() ? known->second : id_or(content, next);
      if (known == added.end() && !json_.vocabulary.contains(content)) ++next;
      added[content] = id;
      settings[id] = token;
    }
    for (const auto& [id, token] : settings) append_added(file, id, token);
  }

  static std::string checked_content(const Json& token) {
    const Json& content = member(token, "content");
    bool holds = content.is_string() && member(token, "id").is_number_unsigned();
    for (const char* option : {"single_word", "lstrip", "rstrip"}) {
      holds = holds && member(token, option) == false;
    }
    for (const char* option : {"normalized", "special"}) {
      holds = holds && member(token, option).is_boolean();
    }
    require(holds, "an added token with other settings than CLIP's");
    return content.get<std::string>();
  }

  static void append_added(TokenizerFile& file, TokenId id, const Json& token) {
    std::u32string content = code_points(member(token, "content").get_ref<const std::string&>());
    require(content.size() <= kMaxAddedCharacters, "an added token that is too long");
    if (!member(token, "normalized").get<bool>()) {
      file.raw_tokens.push_back({std::move(content), id});
      return;
    }
    content = normalized(aligned(content)).characters;
    const auto same = [&](const AddedToken& other) { return other.content == content; };
    require(std::none_of(file.normalized_tokens.begin(), file.normalized_tokens.end(), same),
            "two added tokens that are the same in lower case");
    file.normalized_tokens.push_back({std::move(content), id});
  }

  const TokenizerJson& json_;
  const Json& document_;
};

}  // namespace

TokenizerFile TokenizerFile::from_bytes(std::string_view data, const std::string& name) {
  try {
    return Reader(TokenizerJson::parse(data)).read();
  } catch (const TokenizerFault& fault) {
    throw Error(ErrorCode::bundle_damaged,
                {.what = name + " is no tokenizer",
                 .got = repr(fault.what()),
                 .expected = "a tokenizer.json of the tokenizers library",
                 .fix = "export the bundle again"});
  }
}

}  // namespace libfam
