// The class behind open_tensorrt_backend(), for any device and any library.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engines/engine.h"
#include "engines/tensorrt/engine_cache.h"
#include "engines/tensorrt/plan_engine.h"
#include "engines/tensorrt/plan_runtime.h"
#include "engines/tensorrt/scratch_memory.h"

namespace libfam {

// It loads engines and builds none: an engine that is not in the cache is an error that says which
// command builds it.
class TensorrtBackend final : public Backend {
 public:
  // `gpu` is the device's. An empty `cache_dir` is the user's.
  TensorrtBackend(std::unique_ptr<Device> device, Gpu gpu, std::unique_ptr<PlanRuntime> runtime,
                  const std::string& cache_dir);

  Device& device() override { return *device_; }
  // It gets its plan when it is prepared for some sizes, or run at them.
  std::unique_ptr<Engine> load(const Bundle& bundle, const std::string& graph) override;
  std::vector<std::pair<std::string, std::string>> describe() const override;

 private:
  std::unique_ptr<PlanEngine> plan_engine(const Bundle& bundle, const std::string& graph,
                                          const Sizes& sizes);
  CachedPlan find_plan(const Bundle& bundle, const std::string& graph, const Sizes& sizes) const;

  std::unique_ptr<Device> device_;
  Gpu gpu_;
  std::unique_ptr<PlanRuntime> runtime_;
  EngineCache cache_;
  ScratchMemory scratch_;
};

// The command line that builds the engine of `graph` for `sizes`, and what else a picture needs.
// `cache_root` is where it shall lie.
std::string build_command(const Bundle& bundle, const std::string& graph, const Sizes& sizes,
                          const TensorrtTraits& library, const std::string& cache_root);

}  // namespace libfam
