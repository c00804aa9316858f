#include "bundle/strict_json.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bundle/json_source.h"
#include "bundle/lone_surrogates.h"

namespace libfam {
namespace {

using Json = nlohmann::json;

// Deeper nesting ends the reading at once, as Python's limit of recursion does. Between this and
// kMaxJsonDepth the rest is still read, and what else is wrong with it is said first.
constexpr std::size_t kMaxReadDepth = 900;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// The errors of one document.
class Refusals {
 public:
  explicit Refusals(std::string what) : what_(std::move(what)) {}

  Error damaged(Repr got, std::string expected) const {
    return {ErrorCode::bundle_damaged,
            {.what = what_ + " cannot be read",
             .got = std::move(got),
             .expected = std::move(expected),
             .fix = "get the bundle again"}};
  }
  Error damaged(const std::string& got, std::string expected) const {
    return damaged(repr(got), std::move(expected));
  }
  Error syntax_error(std::size_t line) const {
    return damaged("a syntax error at line " + std::to_string(line), "one JSON object");
  }
  Error not_finite(std::string_view text) const {
    return damaged(std::string(text), "finite numbers");
  }
  Error too_large(std::string_view integer) const {
    return damaged(std::string(integer), "integers of at most " + std::to_string(kMaxJsonInteger));
  }
  Error too_deep() const {
    return damaged("deeper nesting", "at most " + std::to_string(kMaxJsonDepth) + " levels");
  }

 private:
  std::string what_;
};

bool is_in_range(std::int64_t value) {
  return value >= -kMaxJsonInteger && value <= kMaxJsonInteger;
}

// Receives the parser's events and builds the tree. What it throws ends the reading.
class TreeBuilder {
 public:
  TreeBuilder(std::string_view json, bool is_marked, const Refusals& refusals)
      : json_(json), is_marked_(is_marked), refusals_(refusals) {}

  JsonValue take_root() { return std::move(root_); }

  bool null() { return add(JsonValue()); }
  bool boolean(bool value) { return add(JsonValue(value)); }
  bool number_integer(std::int64_t value) {
    if (!is_in_range(value)) throw refusals_.too_large(std::to_string(value));
    return add(JsonValue(value));
  }
  bool number_unsigned(std::uint64_t value) {
    if (value > kMaxJsonInteger) throw refusals_.too_large(std::to_string(value));
    return add(JsonValue(static_cast<std::int64_t>(value)));
  }
  // The parser calls an integer beyond 64 bits a float.
  bool number_float(double value, const std::string& text) {
    if (text.find_first_not_of("-0123456789") == std::string::npos) {
      throw refusals_.too_large(text);
    }
    return add(JsonValue(value));
  }
  bool string(std::string& text) { return add(JsonValue(std::move(text))); }
  bool binary(Json::binary_t&) { return false; }  // not in JSON
  bool key(std::string& text) {
    open_.back().members.emplace_back(std::move(text), JsonValue());
    return true;
  }

  bool start_object(std::size_t) { return open(/*is_list=*/false); }
  bool start_array(std::size_t) { return open(/*is_list=*/true); }
  bool end_object() {
    JsonObject members = std::move(open_.back().members);
    open_.pop_back();
    refuse_duplicates(members);
    return add(JsonValue(std::move(members)));
  }
  bool end_array() {
    JsonList items = std::move(open_.back().items);
    open_.pop_back();
    return add(JsonValue(std::move(items)));
  }

  // `position` is behind the last character that was read. A token that does not end well holds no
  // line break but perhaps as this character.
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) {
    const std::size_t last = position - 1;
    if (!json_text_is_open_at(json_, last)) refuse_value_at(json_number_start(json_, last));
    throw refusals_.syntax_error(json_line_at(json_, last));
  }

 private:
  struct Open {
    bool is_list;
    JsonList items = {};
    JsonObject members = {};  // the last one's value is still to come, or has come
  };

  bool open(bool is_list) {
    if (open_.size() >= kMaxReadDepth) throw refusals_.too_deep();
    open_.push_back({.is_list = is_list});
    return true;
  }

  bool add(JsonValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().is_list) {
      open_.back().items.push_back(std::move(value));
    } else {
      open_.back().members.back().second = std::move(value);
    }
    return true;
  }

  void refuse_duplicates(const JsonObject& members) const {
    std::set<std::string_view> seen;
    for (const auto& [key, value] : members) {
      if (seen.insert(key).second) continue;
      const Repr shown = is_marked_ ? repr_of_marked(key) : repr(key);
      throw refusals_.damaged("the key " + shown.text + " twice", "every key once");
    }
  }

  // Python's reader takes NaN, and of what is no number ("1.x", "1e999") the part that is one; so
  // these are refused for what they are, where a value may stand.
  void refuse_value_at(std::size_t start) const {
    const bool in_list = !open_.empty() && open_.back().is_list;
    if (!json_value_may_stand_at(json_, start, in_list)) return;
    const std::string_view rest = json_.substr(start);
    for (const std::string_view constant : {"NaN", "Infinity", "-Infinity"}) {
      if (rest.starts_with(constant)) throw refusals_.not_finite(constant);
    }
    const std::string_view number = json_number_at_start(rest);
    if (number.empty()) return;
    if (number.find_first_of(".Ee") == std::string_view::npos) {
      refuse_large_integer(number);
    } else if (!Json::accept(number)) {
      throw refusals_.not_finite(number);
    }
  }

  void refuse_large_integer(std::string_view text) const {
    std::int64_t value = 0;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
    if (read.ec != std::errc() || !is_in_range(value)) throw refusals_.too_large(text);
  }

  std::string_view json_;
  bool is_marked_;
  const Refusals& refusals_;
  JsonValue root_;
  std::vector<Open> open_;
};

// Refuses nesting below kMaxJsonDepth and lone surrogates, which are no text, in the order in which
// Python's reader meets them: the last one first, and an object's keys behind its values.
class TreeCheck {
 public:
  TreeCheck(bool is_marked, const Refusals& refusals)
      : is_marked_(is_marked), refusals_(refusals) {}

  void check(const JsonValue& value, std::size_t depth = 1) const {
    if (const std::string* text = value.text()) check_text(*text);
    const JsonList* items = value.list();
    const JsonObject* members = value.object();
    if ((items || members) && depth > kMaxJsonDepth) throw refusals_.too_deep();
    if (items) {
      for (auto item = items->rbegin(); item != items->rend(); ++item) check(*item, depth + 1);
    }
    if (members) {
      for (auto member = members->rbegin(); member != members->rend(); ++member) {
        check(member->second, depth + 1);
      }
      for (auto member = members->rbegin(); member != members->rend(); ++member) {
        check_text(member->first);
      }
    }
  }

 private:
  void check_text(const std::string& text) const {
    if (is_marked_ && holds_marked_surrogate(text)) {
      throw refusals_.damaged(repr_of_marked(text), "text without lone surrogates");
    }
  }

  bool is_marked_;
  const Refusals& refusals_;
};

// The tree of a document that is UTF-8.
JsonValue tree_from(std::string_view json, bool is_marked, const Refusals& refusals) {
  TreeBuilder builder(json, is_marked, refusals);
  Json::sax_parse(json, &builder);
  // The parser takes a zero byte for the end; it stands nowhere in JSON.
  const std::size_t zero = json.find('\0');
  if (zero != std::string_view::npos) throw refusals.syntax_error(json_line_at(json, zero));
  return builder.take_root();
}

}  // namespace

JsonValue parse_json_object(std::string_view data, const std::string& what) {
  const Refusals refusals(what);
  if (data.size() > kMaxJsonBytes) {
    throw refusals.damaged(std::to_string(data.size()) + " bytes",
                           "at most " + std::to_string(kMaxJsonBytes) + " bytes");
  }
  std::size_t bad_byte = 0;
  if (!is_utf8(data, &bad_byte)) {
    throw refusals.damaged("byte " + std::to_string(bad_byte) + " is not UTF-8", "UTF-8");
  }
  if (data.starts_with(kByteOrderMark)) throw refusals.syntax_error(1);
  const std::optional<std::string> marked = with_marked_surrogates(data);
  JsonValue root = tree_from(marked ? *marked : data, marked.has_value(), refusals);
  if (!root.object()) throw refusals.damaged(python_type_of(root), "a JSON object");
  TreeCheck(marked.has_value(), refusals).check(root);
  return root;
}

}  // namespace libfam
