#include "engines/onnxruntime/backend.h"

#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "engines/onnxruntime/engine_folder.h"
#include "engines/onnxruntime/onnxruntime_engine.h"
#include "engines/onnxruntime/session.h"

namespace libfam {
namespace {

using Description = std::vector<std::pair<std::string, std::string>>;

class OnnxruntimeBackend final : public Backend {
 public:
  explicit OnnxruntimeBackend(const BackendOptions& options)
      : settings_{options.provider, options.num_threads, options.low_memory},
        device_index_(options.device_index),
        cache_dir_(options.cache_dir) {
    settings_.check();
    environment_ = onnxruntime_environment();
    check_provider(settings_.provider);
    device_ = settings_.provider == "cpu" ? host_device() : cuda_device(device_index_);
    // On a GPU mapped weights would save the host's memory only; there low memory is the pool's
    // business, which holds one stage at a time.
    settings_.low_memory = settings_.low_memory && device_->is_host();
  }

  Device& device() override { return *device_; }
  void check_bundle(const Bundle& bundle) const override;
  std::unique_ptr<Engine> load(const Bundle& bundle, const std::string& graph) override;
  Description describe() const override;

 private:
  // Null where the graph has its weights inside.
  std::shared_ptr<const SharedWeights> shared_weights(const Bundle& bundle,
                                                      const std::string& graph);
  std::optional<GpuPlace> gpu_place(const Bundle& bundle) const;

  SessionSettings settings_;
  int device_index_;
  std::string cache_dir_;
  std::shared_ptr<Ort::Env> environment_;
  std::unique_ptr<Device> device_;
  // The engines own the weights: with the last one of a bundle its file is unmapped.
  std::map<std::pair<std::string, std::string>, std::weak_ptr<const SharedWeights>> weights_;
  std::mutex weights_mutex_;
};

// bfloat16 has no kernels in the CPU provider, and too few in the CUDA one.
void OnnxruntimeBackend::check_bundle(const Bundle& bundle) const {
  const std::string& dtype = bundle.manifest().model.dtype;
  if (dtype == "bf16") {
    throw Error(ErrorCode::backend,
                {.what = "the onnxruntime backend cannot run a bundle in bf16",
                 .got = repr(dtype),
                 .expected = "fp16 or fp32",
                 .fix = "export the checkpoint with --dtype fp16 or fp32, or use a TensorRT "
                        "backend"});
  }
}

std::unique_ptr<Engine> OnnxruntimeBackend::load(const Bundle& bundle, const std::string& graph) {
  check_bundle(bundle);
  const GraphSpec* spec = bundle.manifest().graph(graph);
  if (spec == nullptr) throw std::logic_error("the manifest lists no graph " + graph);
  auto weights = settings_.low_memory ? shared_weights(bundle, graph) : nullptr;
  device_->activate();
  Ort::Session session =
      open_session(*environment_, bundle.path(graph), settings_, weights.get(), gpu_place(bundle));
  return std::make_unique<OnnxruntimeEngine>(
      graph, *spec, OnnxruntimeEngine::Support{environment_, std::move(weights)},
      std::move(session), *device_, device_index_);
}

// Whether weights are packed decides the last bits, and so does TensorFloat-32.
Description OnnxruntimeBackend::describe() const {
  Description described = {{"backend", "onnxruntime"},
                           {"onnxruntime", onnxruntime_version()},
                           {"provider", settings_.provider},
                           {"weights", settings_.low_memory ? "mapped" : "packed"}};
  if (!device_->is_host()) described.emplace_back("tf32", "by dtype");
  return described;
}

std::shared_ptr<const SharedWeights> OnnxruntimeBackend::shared_weights(const Bundle& bundle,
                                                                        const std::string& graph) {
  const std::vector<std::string> files = bundle.files_of_graph(graph);
  if (files.size() != 3) return nullptr;  // weights inside the graph, or none
  const std::string& weights_file = files[1];
  const std::string& index_file = files[2];
  const std::lock_guard lock(weights_mutex_);
  auto& known = weights_[{bundle.hash(), weights_file}];
  if (auto weights = known.lock()) return weights;
  const std::string path = bundle.path(weights_file);
  const std::string index = bundle.read_bytes(index_file);
  const std::string index_name = std::filesystem::path(index_file).filename().string();
  auto weights = std::make_shared<const SharedWeights>(path, index, index_name);
  known = weights;
  return weights;
}

std::optional<GpuPlace> OnnxruntimeBackend::gpu_place(const Bundle& bundle) const {
  if (device_->is_host()) return std::nullopt;
  GpuPlace place;
  place.device_index = device_index_;
  place.stream = device_->stream();
  // As in engines: fp32 means float32, and the fp32 parts of other bundles may be faster.
  place.tf32 = bundle.manifest().model.dtype != "fp32";
  if (settings_.provider != "cuda") {
    place.engine_folder = engine_folder(cache_dir_, settings_.provider, bundle.hash());
  }
  return place;
}

}  // namespace

std::unique_ptr<Backend> open_onnxruntime_backend(const BackendOptions& options) {
  return std::make_unique<OnnxruntimeBackend>(options);
}

}  // namespace libfam
