// One call of the pipeline at work: both stages for a batch of pictures, and their decoding.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "bundle/reader.h"
#include "engines/engine.h"
#include "sampling/call_watcher.h"
#include "sampling/conditions.h"
#include "sampling/picture_noise.h"
#include "sampling/report.h"
#include "sampling/request.h"
#include "sampling/stage_inputs.h"
#include "sampling/stage_loop.h"
#include "schedulers/plan.h"

namespace libfam {

// Final latents of a batch, float32 [B, C, h, w]; native ones only where that stage ran.
struct BatchLatents {
  std::optional<HostTensor> native;
  HostTensor target;
};

// What the batches of a call share.
class Generation {
 public:
  // All of it must outlive the generation.
  struct Parts {
    EnginePool& pool;
    StageLoop& loop;
    const Request& request;
    const SamplingPlan& plan;    // the sampler's steps, the same in both stages
    const KernelTables& tables;  // FM kernels of the target size
    CallWatcher& watcher;
    bool keep_engines;  // what the pool does
  };

  // Loads on a GPU what shares its memory with the buffers, and then chooses how the native
  // attention is kept.
  explicit Generation(const Parts& parts);

  // Of every text; before the first batch.
  void set_embeddings(TextEmbeddings embeddings) { embeddings_ = std::move(embeddings); }

  // Both stages; the native one is skipped where neither the method nor the user wants it.
  // Raises: Error(cancelled, numeric, backend, out_of_memory).
  BatchLatents run_batch(const std::vector<PictureRequest>& pictures, bool native_wanted);

  // A picture, float32 [1, 3, height, width] in about [-1, 1], from its latent, [1, C, h, w].
  // Raises: Error(numeric) if it holds NaN or infinity; else as run_batch.
  HostTensor decode(const HostTensor& latent, const std::optional<Tiling>& tiling, Stage stage);

  // Adds the time of `work` to the report, without the time for loading graphs in it.
  template <class Work>
  auto timed(const char* stage, const Work& work) {
    const auto started = std::chrono::steady_clock::now();
    const double loaded = parts_.pool.load_seconds();
    auto result = work();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    report_.seconds[stage] += elapsed.count() - (parts_.pool.load_seconds() - loaded);
    return result;
  }

  // The report, with the time for loading graphs in the whole call, timed or not.
  Report finished_report() const;

 private:
  void preload();
  void load_all(const std::vector<std::string>& graphs);
  void choose_native_attention_mode();
  void reserve(std::int64_t batch, bool native_wanted);
  HostTensor native_stage(Engine& engine, const std::vector<PictureRequest>& pictures,
                          PictureNoise& noise);
  HostTensor reference_latent(const HostTensor* native, std::int64_t batch);
  HostTensor target_stage(const std::vector<PictureRequest>& pictures, PictureNoise& noise,
                          const HostTensor& reference, Engine* native_engine);
  HostTensor run(const StageProgram& program);
  HostTensor decode_piece(Engine& decoder, const HostTensor& piece, const Sizes& sizes);
  Feeds conditions(const std::vector<PictureRequest>& pictures, Size size) const;
  Device& device() const { return parts_.pool.backend().device(); }

  Parts parts_;
  const Bundle& bundle_;
  const Manifest& manifest_;
  double loaded_before_;
  TextEmbeddings embeddings_;
  Report report_;
};

}  // namespace libfam
