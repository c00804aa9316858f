#include "text/tokenizer_json.h"

#include <algorithm>
#include <limits>

namespace libfam {
namespace {

using Json = nlohmann::json;

// What memory is set aside for: a token and its merge take more bytes of a file than this.
constexpr std::size_t kBytesOfEntry = 64;

// Tokens whose hashes share a bucket; of 49,408 tokens it is at most about ten.
constexpr std::size_t kMaxSharedBucket = 64;

// Receives nlohmann's events. One handler for three places: the document, the vocabulary, and the
// merges, which are written ["a", "b"] or, by versions before 0.20, "a b".
class Builder {
 public:
  // Names that nlohmann::json::sax_parse asks for.
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  Builder(TokenizerJson& result, std::size_t bytes)
      : result_(result), expected_(std::min(bytes / kBytesOfEntry, TokenizerJson::kMaxEntries)) {}

  bool null() { return value(nullptr); }
  bool boolean(bool flag) { return value(flag); }
  bool number_integer(number_integer_t number) { return value(number); }
  bool number_float(number_float_t number, const string_t&) { return value(number); }
  bool binary(binary_t&) { throw TokenizerFault("binary data"); }

  bool number_unsigned(number_unsigned_t number) {
    if (place_ == Place::vocabulary) return add_token(number);
    return value(number);
  }

  bool string(string_t& text) {
    if (place_ == Place::merges) {
      add_merge_text(text);
    } else if (place_ == Place::merge) {
      pair_.push_back(std::move(text));
      if (pair_.size() > 2) throw TokenizerFault("a merge of more than two tokens");
    } else {
      value(std::move(text));
    }
    return true;
  }

  bool key(string_t& text) {
    key_ = std::move(text);
    return true;
  }

  bool start_object(std::size_t) {
    if (in_model() && key_ == "vocab") {
      result_.vocabulary.reserve(expected_);
      return enter(Place::vocabulary);
    }
    open(Json::object());
    return true;
  }

  bool end_object() {
    if (place_ == Place::vocabulary) return enter(Place::document);
    containers_.pop_back();
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ == Place::merges) return enter(Place::merge);
    if (in_model() && key_ == "merges") {
      result_.merges.reserve(expected_);
      return enter(Place::merges);
    }
    open(Json::array());
    return true;
  }

  bool end_array() {
    if (place_ == Place::merge) {
      if (pair_.size() != 2) throw TokenizerFault("a merge of fewer than two tokens");
      has_pairs_ = true;
      add_merge(std::move(pair_[0]), std::move(pair_[1]));
      pair_.clear();
      return enter(Place::merges);
    }
    if (place_ == Place::merges) return enter(Place::document);
    containers_.pop_back();
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception&) {
    throw TokenizerFault("no JSON at byte " + std::to_string(position));
  }

 private:
  enum class Place { document, vocabulary, merges, merge };

  bool enter(Place place) {
    // A null stands in the document for what is kept outside it, so that a second one is noticed.
    if (place_ == Place::document) value(nullptr);
    place_ = place;
    return true;
  }

  // Whether the next value is a member of the document's "model".
  bool in_model() const {
    return place_ == Place::document && model_ != nullptr && !containers_.empty() &&
           containers_.back() == model_;
  }

  bool value(Json&& json) {
    put(std::move(json));
    return true;
  }

  void open(Json&& container) {
    if (containers_.size() >= TokenizerJson::kMaxDepth) throw TokenizerFault("nested too deeply");
    const bool in_root = containers_.size() == 1 && containers_[0]->is_object();
    containers_.push_back(put(std::move(container)));
    if (in_root && key_ == "model") model_ = containers_.back();
  }

  Json* put(Json&& json) {
    if (place_ == Place::vocabulary) throw TokenizerFault("a token's number that is no integer");
    if (place_ != Place::document) throw TokenizerFault("a merge that is no text");
    if (++values_ > TokenizerJson::kMaxValues) throw TokenizerFault("too many settings");
    if (containers_.empty()) {
      result_.document = std::move(json);
      return &result_.document;
    }
    Json& container = *containers_.back();
    if (container.is_array()) {
      container.push_back(std::move(json));
      return &container.back();
    }
    const auto [member, is_new] = container.emplace(key_, std::move(json));
    if (!is_new) throw TokenizerFault("a key twice in one object");
    return &*member;
  }

  bool add_token(number_unsigned_t number) {
    auto& vocabulary = result_.vocabulary;
    if (number > std::numeric_limits<std::uint32_t>::max()) {
      throw TokenizerFault("a token's number beyond 32 bits");
    }
    if (vocabulary.size() >= TokenizerJson::kMaxEntries) throw TokenizerFault("too many tokens");
    const auto [token, is_new] =
        vocabulary.emplace(std::move(key_), static_cast<std::uint32_t>(number));
    if (!is_new) throw TokenizerFault("a token twice");
    if (vocabulary.bucket_size(vocabulary.bucket(token->first)) > kMaxSharedBucket) {
      throw TokenizerFault("tokens made to collide");
    }
    return true;
  }

  void add_merge_text(const std::string& text) {
    has_texts_ = true;
    if (text.rfind("#version", 0) == 0) return;
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      throw TokenizerFault("a merge that is not two tokens");
    }
    add_merge(text.substr(0, space), text.substr(space + 1));
  }

  void add_merge(std::string&& left, std::string&& right) {
    if (result_.merges.size() >= TokenizerJson::kMaxEntries) {
      throw TokenizerFault("too many merges");
    }
    if (has_texts_ && has_pairs_) throw TokenizerFault("merges written in two ways");
    result_.merges.emplace_back(std::move(left), std::move(right));
  }

  TokenizerJson& result_;
  std::size_t expected_;  // tokens, and merges
  Place place_ = Place::document;
  std::vector<Json*> containers_;  // open ones of the document
  Json* model_ = nullptr;
  std::string key_;
  std::vector<std::string> pair_;
  std::size_t values_ = 0;
  bool has_texts_ = false;
  bool has_pairs_ = false;
};

}  // namespace

TokenizerJson TokenizerJson::parse(std::string_view data) {
  // The library would skip the first and take the second for the end.
  if (data.starts_with("\xEF\xBB\xBF") || data.find('\0') != std::string_view::npos) {
    throw TokenizerFault("a byte that stands nowhere in JSON");
  }
  TokenizerJson result;
  Builder builder(result, data.size());
  Json::sax_parse(data.begin(), data.end(), &builder);
  if (!result.document.is_object()) throw TokenizerFault("no JSON object");
  return result;
}

}  // namespace libfam
