#include "pipeline.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "picture/picture.h"
#include "sampling/call_warnings.h"
#include "sampling/call_watcher.h"
#include "sampling/generation.h"
#include "sampling/prompt_encoder.h"
#include "sampling/request.h"
#include "sampling/settings.h"
#include "sampling/stage_loop.h"
#include "schedulers/plan.h"

#ifndef FAM_VERSION
#define FAM_VERSION "0.0.0"
#endif

namespace libfam {
namespace {

constexpr const char* kOnnxruntime = "onnxruntime";

// Row `index` of a batch, [1, …].
HostTensor row_of(const HostTensor& batch, std::size_t index) {
  Shape shape = batch.shape;
  shape.at(0) = 1;
  HostTensor row = HostTensor::zeros(std::move(shape), batch.dtype);
  const std::size_t nbytes = row.bytes.size();
  std::memcpy(row.bytes.data(), batch.bytes.data() + index * nbytes, nbytes);
  return row;
}

// Tells a watcher of hashed bytes.
class HashWatcher {
 public:
  HashWatcher(const Watcher& watcher, const Manifest& manifest) : watcher_(watcher) {
    // Sizes are somebody else's until they are compared: the sum stays in its type.
    constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
    for (const auto& file : manifest.files) {
      event_.total = std::min(event_.total, kMost - file.second.bytes) + file.second.bytes;
    }
  }

  bool add(std::uint64_t bytes) {
    event_.step += static_cast<std::int64_t>(bytes);
    return !watcher_.on_progress || watcher_.on_progress(event_);
  }

 private:
  const Watcher& watcher_;
  ProgressEvent event_ = {.phase = Phase::checking, .step = 0, .total = 0};
};

Bundle open_bundle(const std::string& path, Verify verify, const Watcher& watcher,
                   const Manifest& manifest) {
  if (verify != Verify::full) return Bundle::open(path, verify);
  HashWatcher told(watcher, manifest);
  bool go_on = told.add(0);
  return Bundle::open(path, verify, [&](std::uint64_t bytes) {
    go_on = go_on && told.add(bytes);
    return go_on;
  });
}

class TwoStagePipeline final : public Pipeline {
 public:
  TwoStagePipeline(std::unique_ptr<Backend> backend, Bundle bundle, const BackendOptions& options)
      : low_memory_(options.low_memory),
        backend_(std::move(backend)),
        bundle_(std::move(bundle)),
        pool_(*backend_, bundle_, /*keep=*/!low_memory_),
        loop_(backend_->device(), /*every_output_bound=*/options.name != kOnnxruntime) {}
  ~TwoStagePipeline() override;

  const Bundle& bundle() const override { return bundle_; }
  Result generate(const Call& call, const Watcher& watcher) override;
  void unload() override;
  void cancel() noexcept override { cancelled_.store(true); }
  std::vector<std::pair<std::string, std::string>> made_with() const override;

 private:
  // Final latents of every picture of a call, [1, C, h, w].
  struct Latents {
    std::vector<HostTensor> target;
    std::vector<HostTensor> native;  // where they were asked for
  };

  TextEmbeddings encode(Generation& generation, const Request& request, CallWatcher& watcher,
                        CallWarnings& warnings);
  static Latents sample(Generation& generation, const Request& request, CallWatcher& watcher,
                        bool native_wanted);
  std::vector<Picture> pictures_of(Generation& generation, const Request& request,
                                   CallWatcher& watcher, std::vector<HostTensor> latents,
                                   Stage stage, bool decode) const;

  bool low_memory_;
  // In this order: each is used by those below it until they are gone.
  std::unique_ptr<Backend> backend_;
  Bundle bundle_;
  EnginePool pool_;
  StageLoop loop_;
  std::optional<PromptEncoder> encoder_;
  std::atomic<bool> cancelled_ = false;
};

TwoStagePipeline::~TwoStagePipeline() {
  try {
    backend_->device().activate();  // this thread may not have used it before
  } catch (const std::exception&) {
    // What is freed now is freed all the same, as far as the device still works.
  }
}

Result TwoStagePipeline::generate(const Call& call, const Watcher& watcher) {
  cancelled_.store(false);
  backend_->device().activate();
  const Manifest& manifest = bundle_.manifest();
  const Request request = resolve_request(manifest, bundle_.root(), call, low_memory_);
  const SamplingPlan plan =
      make_plan(request.scheduler, manifest.noise_schedule, request.num_inference_steps);
  const KernelTables tables = bundle_.kernel_tables(request.target);
  CallWarnings warnings;
  warn_without_guidance(request, manifest.model, warnings);
  CallWatcher told(watcher, cancelled_);
  Generation generation({pool_, loop_, request, plan, tables, told, !low_memory_});
  generation.set_embeddings(encode(generation, request, told, warnings));
  Latents latents = sample(generation, request, told, call.return_native);
  Result result;
  {
    std::optional<EnginePool::Loan> decoder;  // one loading of it for all pictures
    if (call.decode) decoder.emplace(pool_.borrow(manifest.vae.decoder));
    result.pictures = pictures_of(generation, request, told, std::move(latents.target),
                                  Stage::target, call.decode);
    result.native = pictures_of(generation, request, told, std::move(latents.native), Stage::native,
                                call.decode);
  }
  result.warnings = warnings.sentences();
  result.report_json = generation.finished_report().json();
  return result;
}

void TwoStagePipeline::unload() {
  backend_->device().activate();
  loop_.close();
  pool_.close();
}

std::vector<std::pair<std::string, std::string>> TwoStagePipeline::made_with() const {
  std::vector<std::pair<std::string, std::string>> programs = {{"libfam", FAM_VERSION}};
  for (auto& program : backend_->describe()) programs.push_back(std::move(program));
  return programs;
}

TextEmbeddings TwoStagePipeline::encode(Generation& generation, const Request& request,
                                        CallWatcher& watcher, CallWarnings& warnings) {
  return generation.timed("text", [&] {
    if (!encoder_) encoder_.emplace(bundle_);
    return encoder_->encode(pool_, texts_to_encode(bundle_.manifest(), request.pictures), watcher,
                            warnings);
  });
}

TwoStagePipeline::Latents TwoStagePipeline::sample(Generation& generation, const Request& request,
                                                   CallWatcher& watcher, bool native_wanted) {
  Latents latents;
  const auto batch = static_cast<std::size_t>(request.batch());
  for (std::size_t first = 0; first < request.pictures.size(); first += batch) {
    const std::size_t count = std::min(batch, request.pictures.size() - first);
    watcher.set_picture_index(static_cast<std::int64_t>(first));
    const auto begin = request.pictures.begin() + static_cast<std::ptrdiff_t>(first);
    const std::vector<PictureRequest> pictures(begin, begin + static_cast<std::ptrdiff_t>(count));
    const BatchLatents made = generation.run_batch(pictures, native_wanted);
    for (std::size_t i = 0; i < count; ++i) {
      latents.target.push_back(row_of(made.target, i));
      if (native_wanted) latents.native.push_back(row_of(made.native.value(), i));
    }
  }
  return latents;
}

// One by one, so that decoding takes the memory of one.
std::vector<Picture> TwoStagePipeline::pictures_of(Generation& generation, const Request& request,
                                                   CallWatcher& watcher,
                                                   std::vector<HostTensor> latents, Stage stage,
                                                   bool decode) const {
  const Manifest& manifest = bundle_.manifest();
  const bool native = stage == Stage::native;
  const Maker maker = {manifest.model.name, bundle_.hash(), made_with()};
  const std::optional<Tiling> tiling = native ? std::nullopt : request.tiling;
  std::vector<Picture> pictures;
  for (std::size_t i = 0; i < latents.size(); ++i) {
    Picture picture;
    picture.size = native ? manifest.native : request.target.size;
    picture.seed = request.pictures[i].seed;
    picture.settings_json = settings_of_picture(maker, request, request.pictures[i], stage);
    watcher.set_picture_index(static_cast<std::int64_t>(i));
    if (decode) picture.rgb = rgb_from_image(generation.decode(latents[i], tiling, stage));
    picture.latent = std::move(latents[i]);
    pictures.push_back(std::move(picture));
  }
  return pictures;
}

}  // namespace

std::unique_ptr<Pipeline> Pipeline::open(const std::string& path, const PipelineOptions& options,
                                         const Watcher& watcher) {
  std::unique_ptr<Backend> backend = open_backend(options.backend);
  const Bundle unchecked = Bundle::unchecked(path);
  backend->check_bundle(unchecked);  // before minutes of hashing
  Bundle bundle = open_bundle(path, options.verify, watcher, unchecked.manifest());
  backend->check_bundle(bundle);
  return std::make_unique<TwoStagePipeline>(std::move(backend), std::move(bundle), options.backend);
}

}  // namespace libfam
