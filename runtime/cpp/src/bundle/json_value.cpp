#include "bundle/json_value.h"

#include <algorithm>

namespace libfam {
namespace {

void append_repr(std::string& shown, const JsonValue& value);

void append_list(std::string& shown, const JsonList& items) {
  shown += '[';
  for (const JsonValue& item : items) {
    if (&item != items.data()) shown += ", ";
    append_repr(shown, item);
  }
  shown += ']';
}

void append_object(std::string& shown, const JsonObject& members) {
  shown += '{';
  for (const auto& member : members) {
    if (&member != members.data()) shown += ", ";
    shown += repr(member.first).text;
    shown += ": ";
    append_repr(shown, member.second);
  }
  shown += '}';
}

// Recursive: the reader bounds the nesting.
void append_repr(std::string& shown, const JsonValue& value) {
  if (const JsonList* items = value.list()) {
    append_list(shown, *items);
  } else if (const JsonObject* members = value.object()) {
    append_object(shown, *members);
  } else if (const std::string* text = value.text()) {
    shown += repr(*text).text;
  } else if (const bool* flag = value.flag()) {
    shown += repr(*flag).text;
  } else if (const std::int64_t* integer = value.integer()) {
    shown += repr(*integer).text;
  } else if (const double* number = value.floating()) {
    shown += repr(*number).text;
  } else {
    shown += repr_none().text;
  }
}

}  // namespace

const JsonValue* JsonValue::member(std::string_view key) const {
  const JsonObject* members = object();
  if (!members) return nullptr;
  const auto found =
      std::ranges::find_if(*members, [&](const auto& member) { return member.first == key; });
  return found == members->end() ? nullptr : &found->second;
}

Repr repr(const JsonValue& value) {
  Repr shown;
  append_repr(shown.text, value);
  return shown;
}

const char* python_type_of(const JsonValue& value) {
  if (value.object()) return "dict";
  if (value.list()) return "list";
  if (value.text()) return "str";
  if (value.integer()) return "int";
  if (value.floating()) return "float";
  if (value.flag()) return "bool";
  return "NoneType";
}

}  // namespace libfam
