#include "sampling/methods.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "sampling/arguments.h"

namespace libfam {

const std::array<Method, kMethodCount>& methods() {
  static constexpr std::array<Method, kMethodCount> kMethods = {{
      {.name = "fam", .summary = "frequency and attention modulation, the paper's method"},
      {.name = "fm", .summary = "frequency modulation only", .am_strength = 0.0},
      {.name = "am",
       .summary = "attention modulation only, from the diffused latent",
       .fm_kernel = Method::FmKernel::off},
      {.name = "skip-residual",
       .summary = "DemoFusion's skip residual instead of FM",
       .fm_kernel = Method::FmKernel::delta,
       .fm_weight = Method::FmWeight::cosine,
       .am_strength = 0.0},
      {.name = "direct",
       .summary = "the target size from pure noise",
       .start = Method::Start::noise,
       .fm_kernel = Method::FmKernel::off,
       .am_strength = 0.0},
      {.name = "direct-latent",
       .summary = "the target size from the diffused latent",
       .fm_kernel = Method::FmKernel::off,
       .am_strength = 0.0},
      {.name = "constant-lf",
       .summary = "FM and AM with low frequencies of the clean latent at every step (Fig. 7)",
       .reference = Method::Reference::constant},
      {.name = "swapping",
       .summary = "FM and native attention alone, λ = 1 (Fig. 8)",
       .am_strength = 1.0},
  }};
  return kMethods;
}

const Method& method_named(std::string_view name) {
  std::vector<std::string> names;
  for (const Method& method : methods()) {
    if (method.name == name) return method;
    names.emplace_back(method.name);
  }
  throw Error(ErrorCode::invalid_request,
              {.what = "unknown method",
               .got = repr(name),
               .expected = joined(names, " or "),
               .fix = std::string("use ") + kDefaultMethod + ", the default"});
}

double resolve_am_strength(std::string_view name, std::optional<double> requested,
                           double default_strength) {
  const std::optional<double> fixed = method_named(name).am_strength;
  if (!requested) return fixed.value_or(default_strength);
  const double strength = real_number("am_strength", *requested, 0, 1);
  if (fixed && strength != *fixed) {
    throw Error(ErrorCode::invalid_request,
                {.what = "method " + std::string(name) + " fixes am_strength",
                 .got = repr(strength),
                 .expected = repr(*fixed).text,
                 .fix = "leave am_strength out, or use method fam"});
  }
  return strength;
}

double skip_residual_weight(double timestep, std::int64_t train_timesteps) {
  const auto train = static_cast<double>(train_timesteps);
  const double remaining = (train - timestep) / train;
  return std::pow((1 + std::cos(std::numbers::pi * remaining)) / 2, 3.0);
}

}  // namespace libfam
