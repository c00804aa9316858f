#include "bundle/json_cursor.h"

#include <algorithm>

namespace libfam {
namespace {

Error wrong_place(const std::string& where, Repr got, std::string expected) {
  return wrong_in_manifest(where.empty() ? "the document" : where, std::move(got),
                           std::move(expected));
}

}  // namespace

Error wrong_in_manifest(const std::string& where, Repr got, std::string expected) {
  return {ErrorCode::bundle_damaged,
          {.what = "manifest.json: " + where + " is not right",
           .got = std::move(got),
           .expected = std::move(expected),
           .fix = "get the bundle again or export it again with fam-export"}};
}

JsonCursor JsonCursor::member(const std::string& key) const {
  table();
  std::string place = where_.empty() ? key : where_ + "." + key;
  const JsonValue* found = value_->member(key);
  if (!found) throw wrong_place(place, repr("nothing"), "this key");
  return JsonCursor(*found, std::move(place));
}

std::vector<std::pair<std::string, JsonCursor>> JsonCursor::members() const {
  std::vector<std::pair<std::string, JsonCursor>> found;
  for (const auto& [key, value] : table()) {
    found.emplace_back(key, JsonCursor(value, where_ + "[" + repr(key).text + "]"));
  }
  return found;
}

std::vector<JsonCursor> JsonCursor::items() const {
  const JsonList* list = value_->list();
  if (!list) throw wrong("a list");
  if (list->size() > kMaxItems) {
    throw wrong_place(where_, repr(std::uint64_t{list->size()}),
                      "at most " + std::to_string(kMaxItems) + " elements");
  }
  std::vector<JsonCursor> found;
  for (const JsonValue& item : *list) {
    found.emplace_back(item, where_ + "[" + std::to_string(found.size()) + "]");
  }
  return found;
}

std::int64_t JsonCursor::integer(std::int64_t low, std::int64_t high) const {
  const std::int64_t* value = value_->integer();
  if (!value || *value < low || *value > high) {
    throw wrong("an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return *value;
}

double JsonCursor::number(double low, double high) const {
  const std::int64_t* integer = value_->integer();
  const double* floating = value_->floating();
  // An integer of the reader's is at most 2^53, so a double holds it.
  const double value = integer ? static_cast<double>(*integer) : floating ? *floating : 0;
  if ((!integer && !floating) || !(low <= value && value <= high)) {
    throw wrong("a number from " + general_text(low) + " to " + general_text(high));
  }
  return value;
}

bool JsonCursor::flag() const {
  if (!value_->flag()) throw wrong("true or false");
  return *value_->flag();
}

std::string JsonCursor::text() const {
  const std::string* text = value_->text();
  if (!text || text->empty() || length_in_code_points(*text) > kMaxTextCharacters) {
    throw wrong("a text of 1 to " + std::to_string(kMaxTextCharacters) + " characters");
  }
  if (!is_printable(*text)) throw wrong("a text without control characters");
  return *text;
}

std::string JsonCursor::choice(Choices allowed) const {
  const std::string* text = value_->text();
  if (text && std::ranges::find(allowed, *text) != allowed.end()) return *text;
  std::vector<std::string> shown;
  for (const std::string_view option : allowed) shown.push_back(repr(option).text);
  throw wrong("one of " + joined(shown, ", "));
}

std::optional<std::string> JsonCursor::optional_choice(Choices allowed) const {
  if (value_->is_null()) return std::nullopt;
  return choice(allowed);
}

Error JsonCursor::wrong(std::string expected) const {
  return wrong_place(where_, value_->is_null() ? repr("null") : repr(*value_), std::move(expected));
}

const JsonObject& JsonCursor::table() const {
  const JsonObject* members = value_->object();
  if (!members) throw wrong("an object");
  if (members->size() > kMaxItems) {
    throw wrong_place(where_, repr(std::uint64_t{members->size()}),
                      "at most " + std::to_string(kMaxItems) + " keys");
  }
  return *members;
}

}  // namespace libfam
