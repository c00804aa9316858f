#include "text/unicode_properties.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace libfam {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

// Letters that came with Unicode 15.1 and 16.0.
constexpr std::array kLettersUpTo16 = std::to_array<Range>(
    {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
     {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
     {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
     {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
     {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
     {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}});

// Letters that came with Unicode 17.0 and 18.0.
constexpr std::array kLettersAfter16 = std::to_array<Range>(
    {{0x558, 0x558},     {0x58B, 0x58C},     {0x88F, 0x88F},     {0xC5C, 0xC5C},
     {0xCDC, 0xCDC},     {0x208F, 0x208F},   {0x209D, 0x209F},   {0xA7CE, 0xA7CF},
     {0xA7D2, 0xA7D2},   {0xA7D4, 0xA7D4},   {0xA7DD, 0xA7DD},   {0xA7E2, 0xA7E2},
     {0xA7F1, 0xA7F1},   {0xAB6C, 0xAB6D},   {0x107BB, 0x107BF}, {0x10940, 0x10959},
     {0x10EC5, 0x10EC7}, {0x10ED9, 0x10EEE}, {0x11B0A, 0x11B0A}, {0x11DB0, 0x11DDB},
     {0x11DF1, 0x11DF1}, {0x16EA0, 0x16EB8}, {0x16EBB, 0x16ED3}, {0x16FF2, 0x16FF3},
     {0x187F8, 0x187FF}, {0x18CD6, 0x18CDA}, {0x18D09, 0x18D20}, {0x18D80, 0x18DF2},
     {0x18E00, 0x19191}, {0x191A0, 0x191D2}, {0x1B123, 0x1B128}, {0x1B168, 0x1B168},
     {0x1D6A6, 0x1D6A6}, {0x1DF1F, 0x1DF24}, {0x1DF2B, 0x1DF81}, {0x1DF90, 0x1DF96},
     {0x1DFCD, 0x1DFFF}, {0x1E6C0, 0x1E6DE}, {0x1E6E0, 0x1E6E2}, {0x1E6E4, 0x1E6E5},
     {0x1E6E7, 0x1E6ED}, {0x1E6F0, 0x1E6F4}, {0x1E6FE, 0x1E6FF}, {0x2B73A, 0x2B73F},
     {0x2B81E, 0x2B81E}, {0x2CEA2, 0x2CEAD}, {0x323B0, 0x33479}, {0x3D000, 0x3FC3F}});

// Numbers that came with Unicode 16.0.
constexpr std::array kNumbersUpTo16 = std::to_array<Range>({{0x10D40, 0x10D49},
                                                            {0x116D0, 0x116E3},
                                                            {0x11BF0, 0x11BF9},
                                                            {0x16130, 0x16139},
                                                            {0x16D70, 0x16D79},
                                                            {0x1CCF0, 0x1CCF9},
                                                            {0x1E5F1, 0x1E5FA}});

// Numbers that came with Unicode 17.0 and 18.0.
constexpr std::array kNumbersAfter16 = std::to_array<Range>({{0x11DE0, 0x11DE9},
                                                             {0x1246F, 0x1246F},
                                                             {0x12475, 0x1247F},
                                                             {0x12550, 0x12686},
                                                             {0x16FF4, 0x16FF6}});

// Characters with a combining class or a canonical decomposition that came with Unicode 10.0 to
// 18.0.
constexpr std::array kComposingAfter9 = std::to_array<Range>(
    {{0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},
     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
     {0x1715, 0x1715},   {0x1ABF, 0x1AF0},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
     {0x105C9, 0x105C9}, {0x105E4, 0x105E4}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D},
     {0x10EAB, 0x10EAC}, {0x10ECB, 0x10ECF}, {0x10EF0, 0x10EFB}, {0x10EFD, 0x10EFF},
     {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
     {0x11383, 0x11383}, {0x11385, 0x11385}, {0x1138E, 0x1138E}, {0x11391, 0x11391},
     {0x113C5, 0x113C5}, {0x113C7, 0x113C8}, {0x113CE, 0x113D0}, {0x1145E, 0x1145E},
     {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
     {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
     {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
     {0x16121, 0x16128}, {0x1612F, 0x1612F}, {0x16D68, 0x16D6A}, {0x16FF0, 0x16FF1},
     {0x1D127, 0x1D128}, {0x1D250, 0x1D252}, {0x1D25B, 0x1D25C}, {0x1D25F, 0x1D25F},
     {0x1D280, 0x1D281}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
     {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3},
     {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}});

struct LowerCase {
  Range capitals;
  char32_t first;  // lower case of the first of them
};

// Capitals that came, or got a lower case, with Unicode 16.0 and 17.0.
constexpr std::array kLowerCaseUpTo17 = std::to_array<LowerCase>({{{0x1C89, 0x1C89}, 0x1C8A},
                                                                  {{0xA7CB, 0xA7CB}, 0x264},
                                                                  {{0xA7CC, 0xA7CC}, 0xA7CD},
                                                                  {{0xA7CE, 0xA7CE}, 0xA7CF},
                                                                  {{0xA7D2, 0xA7D2}, 0xA7D3},
                                                                  {{0xA7D4, 0xA7D4}, 0xA7D5},
                                                                  {{0xA7DA, 0xA7DA}, 0xA7DB},
                                                                  {{0xA7DC, 0xA7DC}, 0x19B},
                                                                  {{0x10D50, 0x10D65}, 0x10D70},
                                                                  {{0x16EA0, 0x16EB8}, 0x16EBB}});

template <std::size_t N>
bool holds(const std::array<Range, N>& ranges, char32_t c) {
  const auto range =
      std::lower_bound(ranges.begin(), ranges.end(), c,
                       [](const Range& r, char32_t value) { return r.last < value; });
  return range != ranges.end() && range->first <= c;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

}  // namespace

bool is_letter(char32_t c) {
  if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  const utf8proc_category_t found = category(c);
  const bool known = found >= UTF8PROC_CATEGORY_LU && found <= UTF8PROC_CATEGORY_LO;
  return known ? !holds(kLettersAfter16, c) : holds(kLettersUpTo16, c);
}

bool is_number(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t found = category(c);
  const bool known = found >= UTF8PROC_CATEGORY_ND && found <= UTF8PROC_CATEGORY_NO;
  return known ? !holds(kNumbersAfter16, c) : holds(kNumbersUpTo16, c);
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

char32_t simple_lower_case(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
  for (const LowerCase& pairs : kLowerCaseUpTo17) {
    if (c >= pairs.capitals.first && c <= pairs.capitals.last) {
      return pairs.first + (c - pairs.capitals.first);
    }
  }
  // A capital of Unicode 18.0 stays as it is.
  if (holds(kLettersAfter16, c)) return c;
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_unknown_to_composition(char32_t c) { return holds(kComposingAfter9, c); }

}  // namespace libfam
