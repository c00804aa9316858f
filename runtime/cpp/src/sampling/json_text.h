// JSON as Python's json.dumps(value, sort_keys=True, ensure_ascii=False) writes it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace libfam {

// A text in quotes; `text`: valid UTF-8.
std::string json_text(std::string_view text);

// An object of members that are JSON already, in the order of their names.
using JsonMembers = std::map<std::string, std::string>;
std::string json_object(const JsonMembers& members);

// A list of items that are JSON already.
std::string json_list(const std::vector<std::string>& items);

}  // namespace libfam
