#include "bundle/json_source.h"

#include <algorithm>

namespace libfam {
namespace {

constexpr std::string_view kSpace = " \t\n\r";
constexpr std::string_view kNumberCharacters = "+-.0123456789Ee";

std::size_t digits_at(std::string_view json, std::size_t position) {
  const std::string_view rest = json.substr(std::min(position, json.size()));
  return std::min(rest.find_first_not_of("0123456789"), rest.size());
}

bool is_any_of(std::string_view json, std::size_t position, std::string_view characters) {
  return position < json.size() && characters.find(json[position]) != std::string_view::npos;
}

}  // namespace

std::size_t json_line_at(std::string_view json, std::size_t position) {
  const std::string_view before = json.substr(0, position);
  return 1 + static_cast<std::size_t>(std::ranges::count(before, '\n'));
}

bool json_text_is_open_at(std::string_view json, std::size_t position) {
  bool is_open = false;
  for (std::size_t i = 0; i < std::min(position, json.size()); ++i) {
    if (json[i] == '"') is_open = !is_open;
    if (json[i] == '\\' && is_open) ++i;
  }
  return is_open;
}

std::size_t json_number_start(std::string_view json, std::size_t position) {
  const std::size_t before = json.substr(0, position).find_last_not_of(kNumberCharacters);
  return before == std::string_view::npos ? 0 : before + 1;
}

std::string_view json_number_at_start(std::string_view json) {
  std::size_t size = json.starts_with('-') ? 1 : 0;
  const std::size_t whole = is_any_of(json, size, "0") ? 1 : digits_at(json, size);
  if (whole == 0) return {};
  size += whole;
  if (is_any_of(json, size, ".")) {
    const std::size_t fraction = digits_at(json, size + 1);
    if (fraction > 0) size += 1 + fraction;
  }
  if (is_any_of(json, size, "Ee")) {
    const std::size_t sign = is_any_of(json, size + 1, "+-") ? 1 : 0;
    const std::size_t exponent = digits_at(json, size + 1 + sign);
    if (exponent > 0) size += 1 + sign + exponent;
  }
  return json.substr(0, size);
}

bool json_value_may_stand_at(std::string_view json, std::size_t position, bool in_list) {
  const std::size_t before = json.substr(0, position).find_last_not_of(kSpace);
  if (before == std::string_view::npos) return true;
  return json[before] == '[' || json[before] == ':' || (json[before] == ',' && in_list);
}

}  // namespace libfam
