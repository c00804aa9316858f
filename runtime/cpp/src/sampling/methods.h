// The paper's method and its ablations (Figs. 3, 7, 8) as choices of a target graph's inputs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace libfam {

inline constexpr const char* kDefaultMethod = "fam";

// What a method feeds to the target graph.
struct Method {
  // Pure noise, or the diffused upsampled latent z~_T.
  enum class Start { noise, diffused };
  // The bundle's Dirichlet kernels, a delta (every frequency), or no FM at all.
  enum class FmKernel { table, delta, off };
  // 1 - rho(t) of Eq. 8, or DemoFusion's cosine (skip_residual_weight).
  enum class FmWeight { table, cosine };
  // z~_t, or z~_0 at every step (Fig. 7).
  enum class Reference { diffused, constant };

  const char* name = "";
  const char* summary = "";  // one line for --help
  Start start = Start::diffused;
  FmKernel fm_kernel = FmKernel::table;
  FmWeight fm_weight = FmWeight::table;
  // lambda of Eq. 7 where the method fixes it; nothing leaves it to the request.
  std::optional<double> am_strength = std::nullopt;
  Reference reference = Reference::diffused;

  // Whether the target stage uses anything of the native one.
  bool needs_native_stage() const {
    return start == Start::diffused || fm_kernel != FmKernel::off || am_strength != 0.0;
  }
};

inline constexpr std::size_t kMethodCount = 8;

// Every method, the default first.
const std::array<Method, kMethodCount>& methods();

// Raises: Error(invalid_request) if there is none of this name.
const Method& method_named(std::string_view name);

// lambda for the method called `name`.
// Raises: Error(invalid_request) if `requested` is outside of [0, 1], or the method fixes another.
double resolve_am_strength(std::string_view name, std::optional<double> requested,
                           double default_strength);

// DemoFusion's c1 = ((1 + cos(pi (T - t) / T)) / 2)^3: 1 at t = T, 0 at t = 0.
double skip_residual_weight(double timestep, std::int64_t train_timesteps);

}  // namespace libfam
