// The names a bundle's graphs are called by (docs/bundle_format.md; fam_runtime/contract.py).
#pragma once

#include <string>
#include <vector>

namespace libfam::contract {

// Inputs of both step graphs.
inline constexpr const char* kLatent = "latent";
inline constexpr const char* kTimestep = "timestep";
inline constexpr const char* kStepCoefficients = "step_coefficients";
inline constexpr const char* kPreviousPrediction = "previous_prediction";
inline constexpr const char* kStepNoise = "step_noise";
inline constexpr const char* kGuidanceScale = "guidance_scale";
inline constexpr const char* kPromptEmbeds = "prompt_embeds";
inline constexpr const char* kPooledPromptEmbeds = "pooled_prompt_embeds";
inline constexpr const char* kTimeIds = "time_ids";

// Further inputs of a target step graph.
inline constexpr const char* kReferenceLatent = "reference_latent";
inline constexpr const char* kReferenceNoise = "reference_noise";
inline constexpr const char* kFmKernelRows = "fm_kernel_rows";
inline constexpr const char* kFmKernelColumns = "fm_kernel_columns";
inline constexpr const char* kFmWeight = "fm_weight";
inline constexpr const char* kAmStrength = "am_strength";

// Outputs of both step graphs.
inline constexpr const char* kNextLatent = "next_latent";
inline constexpr const char* kPrediction = "prediction";

// The other graphs.
inline constexpr const char* kInputIds = "input_ids";
inline constexpr const char* kImage = "image";

// Positions in `step_coefficients` (docs/equations.md).
enum StepCoefficient : int {
  kReferenceSignal = 0,
  kReferenceNoiseCoefficient = 1,
  kModelInputScale = 2,
  kPredictionFromLatent = 3,
  kPredictionFromOutput = 4,
  kNextFromLatent = 5,
  kNextFromOutput = 6,
  kNextFromPrevious = 7,
  kNextFromNoise = 8,
  kStepCoefficientCount = 9,
};

// Names of the tensors that carry the native attention of `layer`; `form` is "qk" or "maps".
inline std::vector<std::string> tap_names(const std::string& layer, const std::string& form) {
  if (form == "qk") return {"attention_query." + layer, "attention_key." + layer};
  return {"attention_map." + layer};
}

}  // namespace libfam::contract
