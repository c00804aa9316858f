#include "sampling/target_choice.h"

#include <charconv>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "sampling/arguments.h"

namespace libfam {
namespace {

// The largest factor on each side: beyond it a typing error is likelier than a wish (paper: 4).
constexpr std::int64_t kMaxScale = 8;
constexpr double kMaxFactor = 1000;
// Of the native size: a scale such as 4 / 3 means whole pixels although it is no exact float.
constexpr double kPixelTolerance = 1e-6;
constexpr std::pair<double, double> kUsualScale = {2.0, 2.0};

using Factors = std::pair<double, double>;

// What a call asks for: a size, in words, and the option of fam-export that means it.
struct Wish {
  Size size;
  bool possible = true;
  std::string asked;
  std::string option;
};

// One number where both factors are the same, as a user would write it.
Repr repr_scale(const Factors& scale) {
  const auto& [height, width] = scale;
  const bool both_nan = std::isnan(height) && std::isnan(width);
  if (height == width || both_nan) return repr(height);
  return repr_tuple({repr(height), repr(width)});
}

std::string text_of(const std::optional<std::int64_t>& pixels) {
  return pixels ? std::to_string(*pixels) : "None";
}

void check_one_of(const Call& call) {
  if (call.scale && (call.height || call.width)) {
    throw Error(ErrorCode::invalid_request,
                {.what = "both a scale and a size were given",
                 .got = repr("scale " + repr_scale(*call.scale).text + ", " + text_of(call.height) +
                             "x" + text_of(call.width)),
                 .expected = "one of them",
                 .fix = "leave one out"});
  }
  if (call.height.has_value() != call.width.has_value()) {
    throw Error(ErrorCode::invalid_request,
                {.what = "half of a size was given",
                 .got = repr("height " + text_of(call.height) + ", width " + text_of(call.width)),
                 .expected = "both height and width, in pixels",
                 .fix = "give both"});
  }
}

void check_factors(const Factors& scale) {
  for (const double factor : {scale.first, scale.second}) {
    if (factor >= 0 && factor <= kMaxFactor) continue;
    throw Error(ErrorCode::invalid_request,
                {.what = "scale is out of range",
                 .got = repr_scale(scale),
                 .expected = "a positive factor, or a tuple of them (height, width)",
                 .fix = "use 2, or (2, 4)"});
  }
}

// The nearest side to a factor of the native one, and whether the factor means it.
std::pair<std::int64_t, bool> side_of(double factor, std::int64_t native) {
  const auto side = static_cast<double>(native);
  const double exact = factor * side;
  const double nearest = std::nearbyint(exact);
  const bool whole = std::abs(exact - nearest) <= kPixelTolerance * side;
  return {static_cast<std::int64_t>(nearest), whole};
}

double number_of(const std::string& text) {
  double number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

Wish wish_of_scale(const Manifest& manifest, const Factors& factors) {
  check_factors(factors);
  const auto [height, whole_height] = side_of(factors.first, manifest.native.height);
  const auto [width, whole_width] = side_of(factors.second, manifest.native.width);
  const std::string rows = general_text(factors.first);
  const std::string columns = general_text(factors.second);
  const std::string said = factors.first == factors.second ? rows : rows + "x" + columns;
  const bool exact = number_of(rows) == factors.first && number_of(columns) == factors.second;
  const Size size = {height, width};
  return {size, whole_height && whole_width, "scale " + said + " (" + size.text() + " pixels)",
          exact ? "--scale " + said : "--size " + size.text()};
}

Wish wish_of(const Manifest& manifest, const Call& call) {
  if (!call.height || !call.width) return wish_of_scale(manifest, call.scale.value_or(kUsualScale));
  const Size size = {whole_number("height", *call.height), whole_number("width", *call.width)};
  return {size, true, size.text() + " pixels", "--size " + size.text()};
}

bool is_possible(const Manifest& manifest, Size size) {
  const std::int64_t multiple = manifest.model.size_multiple;
  const Size& native = manifest.native;
  return size.height % multiple == 0 && size.width % multiple == 0 &&
         native.height <= size.height && size.height <= kMaxScale * native.height &&
         native.width <= size.width && size.width <= kMaxScale * native.width && size != native;
}

Error impossible(const Manifest& manifest, const std::string& asked) {
  const Size largest = {kMaxScale * manifest.native.height, kMaxScale * manifest.native.width};
  std::vector<std::string> have;
  for (const Target& target : manifest.targets) have.push_back(target.size.text());
  return {ErrorCode::invalid_request,
          {.what = "the checkpoint cannot make this size",
           .got = repr(asked),
           .expected = "height and width that are multiples of " +
                       std::to_string(manifest.model.size_multiple) + " pixels, above the native " +
                       manifest.native.text() + " and up to " + largest.text(),
           .fix = have.empty() ? "choose such a size" : "the bundle has " + joined(have, ", ")}};
}

}  // namespace

const Target& choose_target(const Manifest& manifest, const std::string& root, const Call& call) {
  check_one_of(call);
  if (!call.scale && !call.height && !manifest.targets.empty()) return manifest.targets.front();
  const Wish wish = wish_of(manifest, call);
  if (!wish.possible || !is_possible(manifest, wish.size)) throw impossible(manifest, wish.asked);
  try {
    return manifest.target_for(wish.size);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::target_not_built) throw;
    throw Error(ErrorCode::target_not_built,
                {.what = "the bundle has no target for " + wish.asked,
                 .expected = error.parts().expected,
                 .fix = "add it with " + export_command(manifest, wish.option, root)});
  }
}

}  // namespace libfam
