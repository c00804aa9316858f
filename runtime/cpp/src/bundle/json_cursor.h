// A place in a parsed manifest.json: typed reads whose errors name that place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bundle/json_value.h"

namespace libfam {

// No name or path of the format is longer; in code points.
inline constexpr std::size_t kMaxTextCharacters = 1024;

// No list or table of the format is longer.
inline constexpr std::size_t kMaxItems = 100'000;

// What a text may be, where only some words are allowed.
using Choices = std::span<const std::string_view>;

// A value and, for messages, where it stands ("targets[0].height"). The value must outlive it.
// Every read raises Error(bundle_damaged) if the value is not what the format says.
class JsonCursor {
 public:
  explicit JsonCursor(const JsonValue& value, std::string where = "")
      : value_(&value), where_(std::move(where)) {}

  const JsonValue& value() const { return *value_; }
  const std::string& where() const { return where_; }

  // The value under `key`, which must be there.
  JsonCursor member(const std::string& key) const;
  // Every key with its value.
  std::vector<std::pair<std::string, JsonCursor>> members() const;
  // The elements of a list.
  std::vector<JsonCursor> items() const;
  // An integer in [low, high]; neither a boolean nor 1.0.
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  // A number in [low, high].
  double number(double low, double high) const;
  bool flag() const;
  // A text that is not empty, not endless, and safe to print.
  std::string text() const;
  std::string choice(Choices allowed) const;
  // Nothing for null.
  std::optional<std::string> optional_choice(Choices allowed) const;

  // The error for a value that is not what the format says.
  Error wrong(std::string expected) const;

 private:
  const JsonObject& table() const;

  const JsonValue* value_;
  std::string where_;
};

// BundleDamaged: what manifest.json has at `where` is not right.
Error wrong_in_manifest(const std::string& where, Repr got, std::string expected);

}  // namespace libfam
