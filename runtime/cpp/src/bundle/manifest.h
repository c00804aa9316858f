// The manifest of a bundle: its parts as plain structs, and its one reader in C++.
//
// Fields are the keys of manifest.json (docs/bundle_format.md). The reader refuses what the Python
// one refuses, with the same code and the same text.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/tensor.h"

namespace libfam {

inline constexpr int kFormatVersion = 1;
inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kNativeGraph = "unet/native.onnx";

// Height and width, in pixels or in latent samples.
struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;

  auto operator<=>(const Size&) const = default;
  std::string text() const;  // HEIGHTxWIDTH
};

struct GeneratorInfo {
  std::string name;
  std::string version;
};

struct LoraInfo {
  std::string name;
  std::string sha256;
  double strength = 1.0;
};

struct ModelInfo {
  std::string name;
  std::string family;  // "sd" or "sdxl"
  std::string dtype;   // "fp32", "fp16" or "bf16"
  bool guidance = true;
  bool guidance_embedding = false;
  std::vector<LoraInfo> loras;
  std::int64_t latent_channels = 4;
  std::int64_t vae_scale_factor = 8;
  double vae_scaling_factor = 0.18215;
  std::int64_t size_multiple = 64;
  bool force_zeros_for_empty_prompt = false;
  std::string checkpoint_sha256;

  Dtype tap_dtype() const;
  // Whether the step graphs have the input `guidance_scale`.
  bool takes_guidance_scale() const { return guidance || guidance_embedding; }
};

struct Target {
  Size size;  // pixels
  std::string step;
  std::string upsample;
  std::string kernels;
};

struct TapLayer {
  std::string name;
  std::int64_t heads = 1;
  std::int64_t channels = 1;
  Size tokens;  // the native token grid

  std::int64_t token_count() const { return tokens.height * tokens.width; }
};

struct Taps {
  std::string form;  // "qk" or "maps"
  std::vector<TapLayer> layers;
};

struct FrequencyModulationInfo {
  std::string cutoff_reference = "target";
  double cutoff_constant = 0.5;
  std::string inside_box = "rho";
};

struct UpsampleInfo {
  std::string space = "latent";
  std::string mode = "bicubic";
};

struct TextEncoderInfo {
  std::string graph;
  std::string tokenizer;
  std::int64_t max_length = 77;
  std::int64_t pad_token_id = 0;
  std::int64_t bos_token_id = 0;
  std::int64_t eos_token_id = 0;
};

struct VaeInfo {
  std::string encoder = "vae_encoder/model.onnx";
  std::string decoder = "vae_decoder/model.onnx";
};

struct Defaults {
  std::string scheduler = "ddim";
  std::int64_t num_inference_steps = 50;
  double guidance_scale = 7.5;
  double am_strength = 0.7;
};

struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::float32;
  SymbolicShape shape;

  bool operator==(const TensorSpec&) const = default;
};

// Interface of a graph, in graph order.
struct GraphSpec {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::int64_t activation_bytes = 0;

  const TensorSpec* input(std::string_view name) const;   // null if there is none
  const TensorSpec* output(std::string_view name) const;  // null if there is none
};

struct FileRecord {
  std::int64_t bytes = 0;
  std::string sha256;
};

// The noise schedule as the manifest has it; see schedulers/noise_schedule.h for what it means.
struct NoiseScheduleInfo {
  std::int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  std::string beta_schedule = "linear";
  std::optional<std::vector<double>> trained_betas;
  bool rescale_betas_zero_snr = false;
  std::string prediction_type = "epsilon";
  std::optional<std::string> timestep_spacing;
  std::int64_t steps_offset = 0;
  bool set_alpha_to_one = true;
  std::string final_sigmas_type = "zero";
  bool use_karras_sigmas = false;
  bool lower_order_final = true;
  bool euler_at_final = false;
  std::optional<double> lambda_min_clipped;
  std::int64_t original_inference_steps = 50;
  double timestep_scaling = 10.0;
};

struct Manifest {
  std::int64_t format_version = kFormatVersion;
  GeneratorInfo generator;
  ModelInfo model;
  Size native;  // pixels
  std::vector<Target> targets;
  Taps taps;
  FrequencyModulationInfo frequency_modulation;
  UpsampleInfo upsample;
  std::optional<std::string> size_conditions;
  NoiseScheduleInfo noise_schedule;
  std::vector<TextEncoderInfo> text_encoders;
  VaeInfo vae;
  Defaults defaults;
  // In the order of the document, since Python's dictionaries keep it and messages show it.
  std::vector<std::pair<std::string, GraphSpec>> graphs;
  std::vector<std::pair<std::string, FileRecord>> files;

  // Raises: Error(bundle_damaged, bundle_path_refused, bundle_version_unsupported).
  static Manifest from_bytes(std::string_view data);

  const GraphSpec* graph(std::string_view name) const;  // null if it is not listed
  const FileRecord* file(std::string_view name) const;  // null if it is not listed

  // Height and width of the latent of a picture of `pixels`.
  Size latent_size(Size pixels) const;
  // The factors (height, width) by which `target` is larger than the native size.
  std::pair<double, double> scale_of(const Target& target) const;
  // Raises: Error(target_not_built), whose text lists what there is.
  const Target& target_for(Size pixels) const;
  // Names of every tap tensor of the bundle, in graph order.
  std::vector<std::string> tap_names() const;
  // Tap inputs of the target graph `graph`.
  std::vector<TensorSpec> tap_specs(std::string_view graph) const;
};

// The command line that adds a target to the bundle of `manifest`; `option` such as "--scale 3".
// Without `root` it has no --output.
std::string export_command(const Manifest& manifest, const std::string& option,
                           const std::optional<std::string>& root = std::nullopt);

}  // namespace libfam
