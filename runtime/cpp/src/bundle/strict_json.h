// JSON read strictly: no duplicate keys, no NaN, bounded size and nesting, valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "bundle/json_value.h"

namespace libfam {

// A manifest of a large bundle is some 200 KB; more than this is an attack on the memory.
inline constexpr std::size_t kMaxJsonBytes = 16 * 1024 * 1024;

// The format nests 6 deep; the rest is room for the free-form figures of `check`.
inline constexpr std::size_t kMaxJsonDepth = 16;

// Largest integer that every JSON reader holds exactly (RFC 8259, section 6).
inline constexpr std::int64_t kMaxJsonInteger = (std::int64_t{1} << 53) - 1;

// The JSON object in `data`; `what` names the file in messages.
// Raises: Error(bundle_damaged) when it is anything else than one strict JSON object.
JsonValue parse_json_object(std::string_view data, const std::string& what);

}  // namespace libfam
