// Both stages and the decoding of a call on engines in plain C++, whose bundle is a manifest alone.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "picture/picture.h"
#include "sampling/call_watcher.h"
#include "sampling/generation.h"
#include "unit/stages_case.h"

namespace libfam::fakes {

using Json = nlohmann::json;

inline constexpr const char* kCallTarget = "unet/target-80x96.onnx";
inline constexpr const char* kCallUpsample = "unet/upsample-80x96.onnx";
inline constexpr const char* kCallDecoder = "vae_decoder/model.onnx";
inline constexpr std::int64_t kFactor = 8;

// A folder of its own, removed at the end.
class CallFolder {
 public:
  CallFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "fam-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path = name;
  }
  ~CallFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  CallFolder(const CallFolder&) = delete;
  CallFolder& operator=(const CallFolder&) = delete;

  std::string path;
};

inline Json json_of(const std::vector<TensorSpec>& specs) {
  Json list = Json::array();
  for (const TensorSpec& spec : specs) {
    Json shape = Json::array();
    for (const Dimension& dimension : spec.shape) {
      std::visit([&shape](const auto& value) { shape.push_back(value); }, dimension);
    }
    list.push_back({{"name", spec.name}, {"dtype", name_of(spec.dtype)}, {"shape", shape}});
  }
  return list;
}

inline Json json_of(const GraphSpec& spec) {
  return {{"inputs", json_of(spec.inputs)},
          {"outputs", json_of(spec.outputs)},
          {"check", Json::object()},
          {"activation_bytes", 0}};
}

inline GraphSpec plain_spec(const char* input, SymbolicShape from, const char* output,
                            SymbolicShape to, Dtype input_dtype = Dtype::float32) {
  GraphSpec spec;
  spec.inputs = {{input, input_dtype, std::move(from)}};
  spec.outputs = {{output, Dtype::float32, std::move(to)}};
  return spec;
}

// The native latent is 5 x 6, the target's 10 x 12; the VAE's factor is 8.
inline Json graphs_json() {
  using N = std::int64_t;
  const SymbolicShape latent = {"B", N{2}, "h", "w"};
  const SymbolicShape image = {"B", N{3}, "8h", "8w"};
  return {{"text_encoder/model.onnx", json_of(plain_spec("input_ids", {"B", N{3}}, "prompt_embeds",
                                                         {"B", N{3}, N{2}}, Dtype::int64))},
          {kNative, json_of(step_spec(false, 5, 6))},
          {kCallTarget, json_of(step_spec(true, 10, 12))},
          {kCallUpsample, json_of(plain_spec("latent", {"B", N{2}, N{5}, N{6}}, "reference_latent",
                                             {"B", N{2}, N{10}, N{12}}))},
          {"vae_encoder/model.onnx", json_of(plain_spec("image", image, "latent", latent))},
          {kCallDecoder, json_of(plain_spec("latent", latent, "image", image))}};
}

inline constexpr const char* kRestOfManifest = R"({
  "format_version": 1, "size_conditions": null,
  "generator": {"name": "tests", "version": "0"},
  "defaults": {"am_strength": 0.7, "guidance_scale": 7.5, "num_inference_steps": 4,
               "scheduler": "ddim"},
  "frequency_modulation": {"cutoff_constant": 0.5, "cutoff_reference": "target",
                           "inside_box": "rho"},
  "model": {"name": "fake", "family": "sd", "dtype": "fp32", "guidance": true,
            "guidance_embedding": false, "loras": [], "latent_channels": 2, "vae_scale_factor": 8,
            "vae_scaling_factor": 0.18215, "size_multiple": 8,
            "force_zeros_for_empty_prompt": false},
  "native": {"height": 40, "width": 48},
  "noise_schedule": {"num_train_timesteps": 20, "beta_start": 0.001, "beta_end": 0.05,
    "beta_schedule": "linear", "trained_betas": null, "rescale_betas_zero_snr": false,
    "prediction_type": "epsilon", "timestep_spacing": null, "steps_offset": 0,
    "set_alpha_to_one": true, "final_sigmas_type": "zero", "use_karras_sigmas": false,
    "lower_order_final": true, "euler_at_final": false, "lambda_min_clipped": null,
    "original_inference_steps": 50, "timestep_scaling": 10.0},
  "taps": {"form": "qk",
           "layers": [{"name": "a", "heads": 1, "channels": 1, "tokens": [5, 1]}]},
  "targets": [{"height": 80, "width": 96, "step": "unet/target-80x96.onnx",
               "upsample": "unet/upsample-80x96.onnx", "kernels": "fm/kernels.safetensors"}],
  "text_encoders": [{"graph": "text_encoder/model.onnx", "tokenizer": "tokenizer.json",
    "max_length": 3, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}],
  "upsample": {"mode": "bicubic", "space": "latent"},
  "vae": {"decoder": "vae_decoder/model.onnx", "encoder": "vae_encoder/model.onnx"}
})";

inline std::string manifest_text() {
  Json manifest = Json::parse(kRestOfManifest);
  const std::string no_hash(64, '0');
  manifest["model"]["checkpoint_sha256"] = no_hash;
  manifest["graphs"] = graphs_json();
  const Json record = {{"bytes", 1}, {"sha256", no_hash}};
  for (const auto& graph : manifest["graphs"].items()) manifest["files"][graph.key()] = record;
  manifest["files"]["fm/kernels.safetensors"] = record;
  manifest["files"]["tokenizer.json"] = record;
  return manifest.dump();
}

// A graph that is one pass over its input, [B, C, h, w], and makes each channel's nearest samples
// larger: the step between the stages, and the decoder (whose third channel is the first again).
class GrowingEngine final : public Engine {
 public:
  using Engine::Engine;

 protected:
  void enqueue_impl(const Bindings& bound) override {
    const TensorView& from = bound.at(spec().inputs[0].name);
    const TensorView& to = bound.at(spec().outputs[0].name);
    const auto* read = static_cast<const float*>(from.data);
    auto* write = static_cast<float*>(to.data);
    const std::int64_t height = from.shape[2];
    const std::int64_t width = from.shape[3];
    const std::int64_t factor = to.shape[2] / height;
    for (std::int64_t i = 0; i < element_count(to.shape); ++i) {
      const std::int64_t x = i % to.shape[3] / factor;
      const std::int64_t y = i / to.shape[3] % to.shape[2] / factor;
      const std::int64_t plane = i / to.shape[3] / to.shape[2];
      const std::int64_t channel = plane % to.shape[1] % from.shape[1];
      const std::int64_t source = plane / to.shape[1] * from.shape[1] + channel;
      write[i] = 0.01F * read[(source * height + y) * width + x];
    }
  }
};

// Counts the runs of all engines together, and fails where it is told to.
class CountedEngine final : public Engine {
 public:
  CountedEngine(std::unique_ptr<Engine> engine, std::optional<int>& runs_left, int& loaded)
      : Engine(engine->graph(), engine->spec()),
        engine_(std::move(engine)),
        runs_left_(runs_left),
        loaded_(loaded) {
    ++loaded_;
  }
  ~CountedEngine() override { --loaded_; }

 protected:
  void enqueue_impl(const Bindings& bound) override {
    if (runs_left_ && (*runs_left_)-- == 0) throw Error(ErrorCode::backend, {.what = "it failed"});
    engine_->enqueue(bound);
  }

 private:
  std::unique_ptr<Engine> engine_;
  std::optional<int>& runs_left_;
  int& loaded_;
};

class CallBackend final : public Backend {
 public:
  explicit CallBackend(bool host) : recording(host) {}

  Device& device() override { return recording; }
  std::unique_ptr<Engine> load(const Bundle& bundle, const std::string& graph) override {
    const GraphSpec& spec = *bundle.manifest().graph(graph);
    std::unique_ptr<Engine> engine;
    if (graph == kNative || graph == kCallTarget) {
      engine = std::make_unique<FakeEngine>(graph, spec, &recording.log);
    } else {
      engine = std::make_unique<GrowingEngine>(graph, spec);
    }
    auto counted = std::make_unique<CountedEngine>(std::move(engine), runs_left, loaded);
    most_loaded = std::max(most_loaded, loaded);
    return counted;
  }
  std::vector<std::pair<std::string, std::string>> describe() const override { return {}; }

  RecordingDevice recording;
  std::optional<int> runs_left;  // of all engines together; then one fails
  int loaded = 0;
  int most_loaded = 0;
};

inline Bundle call_bundle(const CallFolder& folder) {
  std::ofstream(folder.path + "/manifest.json", std::ios::binary) << manifest_text();
  return Bundle::unchecked(folder.path);
}

inline KernelTables call_tables() {
  KernelTables tables;
  tables.timesteps = kTrainTimesteps;
  tables.latent = {10, 12};
  for (std::int64_t t = 0; t < kTrainTimesteps; ++t) {
    tables.weight.push_back(0.04F * static_cast<float>(t));
    for (std::int64_t y = 0; y < 10; ++y) tables.rows.push_back(0.1F * static_cast<float>(t + y));
    for (std::int64_t x = 0; x < 12; ++x) {
      tables.columns.push_back(0.1F * static_cast<float>(t - x));
    }
  }
  return tables;
}

inline TextEmbedding embedding_of(float value) {
  return {
      HostTensor::from({value, 2 * value, 3 * value, 4 * value, 5 * value, 6 * value}, {1, 3, 2}),
      std::nullopt};
}

// What a call leaves: colours of every target and native picture, and the latents.
struct Made {
  std::vector<std::vector<std::uint8_t>> rgb;
  std::vector<std::vector<std::byte>> latents;

  bool operator==(const Made&) const = default;
};

struct CallCase {
  explicit CallCase(bool host = true, bool keep = true)
      : backend(host), pool(backend, bundle, keep), loop(backend.recording), keeps(keep) {
    request.pictures = {{"a cat", std::nullopt, 7}, {"a dog", "blur", 8}, {"a cat", "", 9}};
    request.target = bundle.manifest().targets.front();
    request.method = method_named("fam");
    request.am_strength = 0.7;
    request.noise = "torch-cpu";
    request.native_attention = "store";
    request.pictures_per_batch = 2;
    request.guidance_scale = 1.5;
  }

  Made run(const Watcher& watcher = {}, bool native_wanted = true) {
    CallWatcher told(watcher, cancelled);
    Generation generation({pool, loop, request, plan, tables, told, keeps});
    generation.set_embeddings({{"a cat", embedding_of(0.1F)},
                               {"a dog", embedding_of(0.2F)},
                               {"", embedding_of(0.3F)},
                               {"blur", embedding_of(0.4F)}});
    Made made;
    for (std::size_t first = 0; first < request.pictures.size(); first += 2) {
      told.set_picture_index(static_cast<std::int64_t>(first));
      const std::vector<PictureRequest> pictures(
          request.pictures.begin() + static_cast<std::ptrdiff_t>(first),
          request.pictures.begin() +
              static_cast<std::ptrdiff_t>(std::min(first + 2, request.pictures.size())));
      const BatchLatents latents = generation.run_batch(pictures, native_wanted);
      decode(generation, latents.target, Stage::target, made);
      if (native_wanted) decode(generation, latents.native.value(), Stage::native, made);
    }
    report = generation.finished_report();
    return made;
  }

  void decode(Generation& generation, const HostTensor& latents, Stage stage, Made& made) {
    const std::size_t count = static_cast<std::size_t>(latents.shape[0]);
    const std::size_t nbytes = latents.bytes.size() / count;
    for (std::size_t i = 0; i < count; ++i) {
      HostTensor one = latents;
      one.shape[0] = 1;
      const auto begin = latents.bytes.begin() + static_cast<std::ptrdiff_t>(i * nbytes);
      one.bytes.assign(begin, begin + static_cast<std::ptrdiff_t>(nbytes));
      made.rgb.push_back(rgb_from_image(generation.decode(one, request.tiling, stage)));
      made.latents.push_back(one.bytes);
    }
  }

  CallFolder folder;
  Bundle bundle = call_bundle(folder);
  CallBackend backend;
  EnginePool pool;
  StageLoop loop;
  bool keeps;
  Request request;
  SamplingPlan plan = fake_plan(4, {false, true, false, true});
  KernelTables tables = call_tables();
  std::atomic<bool> cancelled = false;
  Report report;
};

}  // namespace libfam::fakes
