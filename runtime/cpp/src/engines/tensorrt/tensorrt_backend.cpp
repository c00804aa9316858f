#include "engines/tensorrt/tensorrt_backend.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "base/error.h"
#include "base/shell_quoting.h"
#include "engines/tensorrt/tensorrt_engine.h"

namespace libfam {
namespace {

// The target whose picture needs `graph` at `sizes`; null if every picture does.
const Target* target_of(const Manifest& manifest, const std::string& graph, const Sizes& sizes) {
  for (const Target& target : manifest.targets) {
    if (graph == target.step || graph == target.upsample) return &target;
    const Size latent = manifest.latent_size(target.size);
    const auto height = sizes.find("h");
    const auto width = sizes.find("w");
    if (graph == manifest.vae.decoder && height != sizes.end() && width != sizes.end() &&
        latent == Size{height->second, width->second}) {
      return &target;
    }
  }
  return nullptr;
}

}  // namespace

TensorrtBackend::TensorrtBackend(std::unique_ptr<Device> device, Gpu gpu,
                                 std::unique_ptr<PlanRuntime> runtime, const std::string& cache_dir)
    : device_(std::move(device)),
      gpu_(std::move(gpu)),
      runtime_(std::move(runtime)),
      cache_(cache_dir),
      scratch_(*device_) {
  // Where kernels are not timed on the GPU itself, the architecture decides.
  if (runtime_->traits().builds_ahead_of_time) gpu_.name.clear();
}

std::unique_ptr<Engine> TensorrtBackend::load(const Bundle& bundle, const std::string& graph) {
  const GraphSpec* spec = bundle.manifest().graph(graph);
  if (spec == nullptr) throw std::logic_error("a graph that the bundle does not list: " + graph);
  return std::make_unique<TensorrtEngine>(
      graph, *spec, *device_,
      [this, &bundle, graph](const Sizes& sizes) { return plan_engine(bundle, graph, sizes); });
}

std::vector<std::pair<std::string, std::string>> TensorrtBackend::describe() const {
  const TensorrtTraits& library = runtime_->traits();
  return {{"backend", library.name},
          {library.name, runtime_->version().text()},
          {"gpu", device_->name() + " (" + gpu_.architecture + ")"},
          {"tf32", "by dtype"}};
}

std::unique_ptr<PlanEngine> TensorrtBackend::plan_engine(const Bundle& bundle,
                                                         const std::string& graph,
                                                         const Sizes& sizes) {
  const CachedPlan plan = find_plan(bundle, graph, sizes);
  device_->trim();  // the library takes the memory for the weights itself
  return std::make_unique<PlanEngine>(
      PlanEngine::Shared{*runtime_, cache_, scratch_}, plan, graph, *bundle.manifest().graph(graph),
      build_command(bundle, graph, sizes, runtime_->traits(), cache_.store().root()));
}

CachedPlan TensorrtBackend::find_plan(const Bundle& bundle, const std::string& graph,
                                      const Sizes& sizes) const {
  const TensorrtTraits& library = runtime_->traits();
  const BuildSettings settings;
  const SymbolRanges ranges = ranges_of(graph, sizes, settings);
  const std::string& model = bundle.manifest().model.name;
  std::optional<std::string> why;
  std::string place;
  for (const std::string& version : runtime_->version().spellings()) {
    const EngineKey key = engine_key(bundle, graph, ranges, library, version, gpu_, settings);
    PlanSearch search = cache_.find(model, graph, key);
    if (search.plan) return std::move(*search.plan);
    std::optional<CachedPlan> wider = cache_.find_for_sizes(model, graph, key, sizes);
    if (wider) return std::move(*wider);
    if (why) continue;
    why = search.why;
    place = cache_.store().path_of(EngineCache::plan_name(model, graph, key));
  }
  throw Error(
      ErrorCode::backend,
      {.what = std::string(library.title) + ": there is no engine of " + graph + " for " +
               describe_ranges(ranges) + " on " + device_->name() + " (" + gpu_.architecture + ")",
       .got = why->empty() ? std::nullopt : std::optional(repr(*why)),
       .expected = place,
       .fix = "build it with the Python runtime, once for each size: " +
              build_command(bundle, graph, sizes, library, cache_.store().root())});
}

std::string build_command(const Bundle& bundle, const std::string& graph, const Sizes& sizes,
                          const TensorrtTraits& library, const std::string& cache_root) {
  std::string command = "fam-generate " + shell_quoted(bundle.root()) + " 'a picture'";
  if (const Target* target = target_of(bundle.manifest(), graph, sizes)) {
    command += " --size " + target->size.text();
  }
  command += std::string(" --backend ") + library.name;
  const auto batch = sizes.find(kBatchSymbol);
  if (batch != sizes.end() && batch->second > 1) {
    command += " --batch 1:" + std::to_string(batch->second);
  }
  return command + " --cache-dir " + shell_quoted(cache_root);
}

}  // namespace libfam
