#include "engines/tensorrt/symbol_ranges.h"

#include <algorithm>
#include <charconv>

namespace libfam {
namespace {

bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

// Takes `expected` from the front of `text`.
bool take(std::string_view& text, std::string_view expected) {
  if (!text.starts_with(expected)) return false;
  text.remove_prefix(expected.size());
  return true;
}

bool take(std::string_view& text, std::int64_t& number) {
  if (text.starts_with('-')) return false;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(parsed.ptr - text.data()));
  return true;
}

std::string_view take_letters(std::string_view& text) {
  const auto end = std::find_if_not(text.begin(), text.end(), is_letter);
  const std::string_view letters(text.data(), static_cast<std::size_t>(end - text.begin()));
  text.remove_prefix(letters.size());
  return letters;
}

// What follows "B = ".
std::optional<SymbolRange> take_range(std::string_view& text) {
  SymbolRange range;
  if (!take(text, range.minimum)) return std::nullopt;
  range.optimum = range.maximum = range.minimum;
  if (!take(text, " to ")) return range;
  if (!take(text, range.maximum) || !take(text, " (best at ") || !take(text, range.optimum) ||
      !take(text, ")")) {
    return std::nullopt;
  }
  return range;
}

}  // namespace

SymbolRanges exactly(const Sizes& sizes) {
  SymbolRanges ranges;
  for (const auto& [symbol, size] : sizes) ranges[symbol] = {size, size, size};
  return ranges;
}

bool ranges_contain(const SymbolRanges& ranges, const Sizes& sizes) {
  if (ranges.size() != sizes.size()) return false;
  return std::ranges::all_of(sizes, [&ranges](const auto& entry) {
    const auto range = ranges.find(entry.first);
    return range != ranges.end() && range->second.minimum <= entry.second &&
           entry.second <= range->second.maximum;
  });
}

std::string describe_ranges(const SymbolRanges& ranges) {
  std::string text;
  for (const auto& [symbol, range] : ranges) {
    if (!text.empty()) text += "; ";
    text += symbol + " = " + std::to_string(range.minimum);
    if (range.minimum == range.maximum) continue;
    text +=
        " to " + std::to_string(range.maximum) + " (best at " + std::to_string(range.optimum) + ")";
  }
  return text;
}

std::optional<SymbolRanges> ranges_from_text(std::string_view text) {
  SymbolRanges ranges;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view symbol = take_letters(rest);
    if (symbol.empty() || !take(rest, " = ")) return std::nullopt;
    const std::optional<SymbolRange> range = take_range(rest);
    if (!range) return std::nullopt;
    ranges[std::string(symbol)] = *range;
    if (!rest.empty() && !take(rest, "; ")) return std::nullopt;
  }
  // Only what describe_ranges writes: no signs, leading zeros, repeated or unsorted symbols.
  if (describe_ranges(ranges) != text) return std::nullopt;
  return ranges;
}

}  // namespace libfam
