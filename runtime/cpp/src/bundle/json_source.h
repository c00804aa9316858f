// Looking at the source of a JSON document around the place where its parser stopped.
#pragma once

#include <cstddef>
#include <string_view>

namespace libfam {

// The line of `position`, counted from 1.
std::size_t json_line_at(std::string_view json, std::size_t position);

// Whether `position` is within a text or at its closing quote, if what is before it is well-formed.
bool json_text_is_open_at(std::string_view json, std::size_t position);

// Where the number may begin that `position` is in or behind: the run of its characters up to
// there.
std::size_t json_number_start(std::string_view json, std::size_t position);

// The longest well-formed number at the beginning of `json`; empty if there is none.
std::string_view json_number_at_start(std::string_view json);

// Whether a value may stand at `position`, if what is before it is well-formed. `in_list`: the
// innermost bracket that is open is one of a list.
bool json_value_may_stand_at(std::string_view json, std::size_t position, bool in_list);

}  // namespace libfam
