// The two stages: the native trajectory, and diffuse-denoise at the target size.
//
// The step graphs hold all the arithmetic on tensors; this file only decides what is fed when, as a
// StageProgram. The one exception is the first latent of each stage, computed on the host in
// float32:
//
// - native: z_T^n = init_noise_sigma * eps_n;
// - target: z~_T = initial_signal * z~_0 + initial_noise * eps, each product rounded to float32
//   before the sum, or init_noise_sigma * eps for direct inference.
//
// Order of noise, per picture and from one stream: the native eps_n; one draw for each native step
// that needs noise; the target eps; one draw for each target step that needs noise. A method that
// takes nothing from the native stage (direct) draws nothing for it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "bundle/reader.h"
#include "engines/engine.h"
#include "sampling/methods.h"
#include "sampling/picture_noise.h"
#include "sampling/stage_program.h"
#include "schedulers/plan.h"

namespace libfam {

// What the programs of both stages have in common; all of it must outlive their runs.
struct Sampling {
  const SamplingPlan& plan;
  // A program takes its first latent from it when it is made.
  PictureNoise& noise;
  StepObserver* observer = nullptr;  // null: nobody looks
};

// How the target stage gets the native attention.
struct AttentionFeed {
  NativeAttention choice = NativeAttention::none;
  std::vector<std::string> tap_names;  // Manifest::tap_names
  // For replay: the engine of the native stage, still loaded.
  Engine* native_engine = nullptr;
};

// Samples z_0^n with the unmodified UNet and keeps the trajectory; with NativeAttention::store also
// the taps of every step. `conditions`: inputs that are the same at every step, of
// stage_conditions. `latent_shape`: channels, height and width of a native latent.
StageProgram native_program(const Sampling& sampling, Engine& engine, Feeds conditions,
                            const Shape& latent_shape, const AttentionFeed& attention);

// Denoises at the target size. `reference_latent`: z~_0, float32 [B, C, H, W], zeros for a method
// that takes nothing from the native stage. `am_strength`: lambda of Eq. 7. `tables`: FM kernels of
// this size.
StageProgram target_program(const Sampling& sampling, Engine& engine, Feeds conditions,
                            const HostTensor& reference_latent, const Method& method,
                            double am_strength, const KernelTables& tables,
                            const AttentionFeed& attention);

// What every step graph is told of the sampler: `timestep` float32 [T], `step_coefficients` [T, 9].
Feeds sampler_tables(const SamplingPlan& plan);

// z_T of the target stage, float32, the shape of `noise`; see the top of this file.
HostTensor first_target_latent(const Method& method, const SamplingPlan& plan,
                               const HostTensor& reference_latent, const HostTensor& noise);

// The step's coefficients; for a constant reference, those that make z~_t be z~_0. A sampler may
// keep latents scaled: the model sees MODEL_INPUT_SCALE * z. There z~_0 has the coefficient 1, so
// in the sampler's own convention it has 1 / MODEL_INPUT_SCALE.
std::array<float, contract::kStepCoefficientCount> reference_coefficients(const Method& method,
                                                                          const StepPlan& step);

// Kernels and weight of FM for every step: `fm_kernel_rows` float32 [T, H], `fm_kernel_columns`
// [T, W], `fm_weight` [T].
Feeds fm_tables(const Method& method, const KernelTables& tables,
                const std::vector<StepPlan>& steps);

}  // namespace libfam
