// A parsed JSON document: a tree whose objects keep the order of their members.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/python_text.h"

namespace libfam {

class JsonValue;

using JsonList = std::vector<JsonValue>;
using JsonObject = std::vector<std::pair<std::string, JsonValue>>;

// One value. 1 and 1.0 are different kinds, as in Python. Texts, lists and objects are held by
// pointer, so that a value is small: a hostile document holds millions.
class JsonValue {
 public:
  JsonValue() = default;  // null
  explicit JsonValue(bool flag) : value_(flag) {}
  explicit JsonValue(std::int64_t integer) : value_(integer) {}
  explicit JsonValue(double number) : value_(number) {}
  explicit JsonValue(std::string text) : value_(std::make_unique<std::string>(std::move(text))) {}
  explicit JsonValue(JsonList items) : value_(std::make_unique<JsonList>(std::move(items))) {}
  explicit JsonValue(JsonObject members)
      : value_(std::make_unique<JsonObject>(std::move(members))) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  // What it holds, or null if it is of another kind.
  const bool* flag() const { return std::get_if<bool>(&value_); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&value_); }
  const double* floating() const { return std::get_if<double>(&value_); }
  const std::string* text() const { return held<std::string>(); }
  const JsonList* list() const { return held<JsonList>(); }
  const JsonObject* object() const { return held<JsonObject>(); }

  // The member `key` of an object; null if there is none, or if it is no object.
  const JsonValue* member(std::string_view key) const;

 private:
  template <class T>
  const T* held() const {
    const auto* pointer = std::get_if<std::unique_ptr<T>>(&value_);
    return pointer ? pointer->get() : nullptr;
  }

  std::variant<std::monostate, bool, std::int64_t, double, std::unique_ptr<std::string>,
               std::unique_ptr<JsonList>, std::unique_ptr<JsonObject>>
      value_;
};

// As Python shows the value that json.loads() makes of it: {'a': [1, 2.0, None, True]}.
Repr repr(const JsonValue& value);

// The name of its type in Python: "dict", "list", "str", "int", "float", "bool" or "NoneType".
const char* python_type_of(const JsonValue& value);

}  // namespace libfam
