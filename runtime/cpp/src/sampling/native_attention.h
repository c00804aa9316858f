// Where the target stage gets the native attention of each step: store, replay, or nowhere.
//
// - store: the native stage keeps the taps of every step.
// - replay: it keeps the latents z_t^n only, and the native graph runs again at each target step.
//   Taps depend on the latent, the timestep and the conditions alone, so the bits are the same.
// - none: lambda = 0 multiplies them by zero; the target graph is fed zeros.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"
#include "engines/device.h"
#include "sampling/stage_program.h"

namespace libfam {

inline constexpr std::array<const char*, 3> kNativeAttentionModes = {"auto", "store", "replay"};

// Bytes that `store` keeps for a batch; `specs`: Manifest::tap_specs of the target's step graph;
// `sizes` of symbols as in {"B": 1}. What does not fit the type is its largest value.
std::uint64_t stored_bytes(const std::vector<TensorSpec>& specs, const Sizes& sizes,
                           std::int64_t steps);

// A quarter of the device's memory that is free now; 1 GiB where that is not known. `held_bytes`:
// what StageLoop::buffer_bytes says, which is held for calls like the next one and counts as free.
std::uint64_t default_memory_budget_bytes(Device& device, std::size_t held_bytes = 0);

// `none` for lambda = 0; else `mode`, one of kNativeAttentionModes, where "auto" stores what fits
// into the budget.
NativeAttention choose_native_attention(std::string_view mode, double am_strength,
                                        std::uint64_t needed_bytes, std::uint64_t budget_bytes);

}  // namespace libfam
