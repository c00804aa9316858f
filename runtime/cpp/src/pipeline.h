// FAM Diffusion from a bundle: what the C ABI stands on.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle/reader.h"
#include "engines/engine.h"
#include "noise/noise_source.h"

namespace libfam {

// VAE tile of the decode at the target size, in latent samples.
struct TileChoice {
  enum class Kind { automatic, whole, tiles };
  Kind kind = Kind::automatic;
  std::int64_t tile = 0;
  std::int64_t overlap = 0;  // 0: a quarter of the tile
};

// The arguments of a call; what is left out takes the bundle's default.
struct Call {
  std::vector<std::string> prompts;
  // Empty: none. One: for all prompts. Else one per prompt.
  std::vector<std::optional<std::string>> negative_prompts;
  std::optional<std::pair<double, double>> scale;  // height, width
  std::optional<std::int64_t> height;              // pixels
  std::optional<std::int64_t> width;
  std::optional<std::int64_t> num_inference_steps;
  std::optional<double> guidance_scale;
  // The first picture's, and picture i has seed + i; empty: that seed is drawn. Or one per picture.
  std::vector<Seed> seeds = {0};
  bool one_seed_per_picture = false;
  std::int64_t num_images_per_prompt = 1;
  std::optional<std::string> method;
  std::optional<std::string> scheduler;
  std::optional<double> am_strength;
  std::string native_attention = "auto";  // or "store", "replay"
  std::optional<std::string> noise;
  TileChoice tile;
  std::int64_t pictures_per_batch = 1;
  bool return_native = false;
  bool decode = true;  // false: latents only
};

enum class Phase { checking, text, native, target, decode };

// How far a call is; told after each step, and once with step 0 when a phase begins.
struct ProgressEvent {
  Phase phase;
  std::int64_t step;                   // done so far
  std::int64_t total;                  // of this phase
  std::int64_t picture_index = 0;      // first picture of the batch
  double timestep = 0;                 // of the step that is done, in the native and target phases
  const HostTensor* latent = nullptr;  // after the step, where the watcher asked for latents
};

struct Watcher {
  // False cancels the call.
  std::function<bool(const ProgressEvent&)> on_progress;
  // Download the latent after every step for on_progress.
  bool wants_latents = false;
};

struct Picture {
  Size size;                      // pixels
  std::vector<std::uint8_t> rgb;  // [height, width, 3]; empty without decoding
  HostTensor latent;              // z_0, float32 [1, C, h, w]
  Seed seed = 0;
  std::string settings_json;  // everything that makes it again
};

struct Result {
  std::vector<Picture> pictures;
  std::vector<Picture> native;        // where they were asked for
  std::vector<std::string> warnings;  // what a user should know, a sentence each
  std::string report_json;            // seconds per stage, how native attention was kept
};

struct PipelineOptions {
  BackendOptions backend;
  Verify verify = Verify::full;
};

// Not for use by several threads at once, but for cancel().
class Pipeline {
 public:
  // `on_progress` is told of hashed bytes (Phase::checking).
  static std::unique_ptr<Pipeline> open(const std::string& path, const PipelineOptions& options,
                                        const Watcher& watcher = {});
  virtual ~Pipeline() = default;

  virtual const Bundle& bundle() const = 0;
  virtual Result generate(const Call& call, const Watcher& watcher) = 0;
  // Frees every loaded graph; a later call loads them again.
  virtual void unload() = 0;
  // From any thread: the running call stops after the step it is in.
  virtual void cancel() noexcept = 0;
  // Programs, versions and modes that decide a picture's last bits.
  virtual std::vector<std::pair<std::string, std::string>> made_with() const = 0;
};

}  // namespace libfam
