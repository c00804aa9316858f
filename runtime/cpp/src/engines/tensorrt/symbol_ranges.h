// The shapes an engine is built for: a range for every symbol of the manifest's shapes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/tensor.h"

namespace libfam {

inline constexpr const char* kBatchSymbol = "B";

// Sizes that a symbol such as B or h may have, and the one to be fastest at.
struct SymbolRange {
  std::int64_t minimum = 1;
  std::int64_t optimum = 1;
  std::int64_t maximum = 1;

  bool operator==(const SymbolRange&) const = default;
};

using SymbolRanges = std::map<std::string, SymbolRange, std::less<>>;

// Ranges of one size each.
SymbolRanges exactly(const Sizes& sizes);

// Whether an engine for `ranges` runs at `sizes`, which name the same symbols.
bool ranges_contain(const SymbolRanges& ranges, const Sizes& sizes);

// "B = 1; h = 64; w = 64", or "B = 1 to 4 (best at 2)" for a range.
std::string describe_ranges(const SymbolRanges& ranges);

// The inverse of describe_ranges; nothing if `text` is not what that writes.
std::optional<SymbolRanges> ranges_from_text(std::string_view text);

}  // namespace libfam
