// One plan, deserialised: it runs on one stream, one call at a time.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "engines/engine.h"
#include "engines/tensorrt/engine_cache.h"
#include "engines/tensorrt/plan_runtime.h"
#include "engines/tensorrt/scratch_memory.h"

namespace libfam {

class PlanEngine {
 public:
  // What all engines of a backend share; it outlives them.
  struct Shared {
    PlanRuntime& runtime;
    const EngineCache& cache;
    ScratchMemory& scratch;
  };

  // `plan`: from the cache, whose bytes were verified. `spec`: inputs and outputs of `graph`.
  // `build_command` is for messages: how to build the engine again.
  // Raises: Error(backend) if the library refuses the plan, or it is not of this graph;
  // Error(out_of_memory).
  PlanEngine(const Shared& shared, const CachedPlan& plan, std::string graph, const GraphSpec& spec,
             const std::string& build_command);
  // Keeps the kernels compiled meanwhile. The plan's work on the stream has ended.
  ~PlanEngine();
  PlanEngine(const PlanEngine&) = delete;
  PlanEngine& operator=(const PlanEngine&) = delete;

  const SymbolRanges& ranges() const { return ranges_; }

  // Puts one run on `stream`, without waiting: every input and every output, by name.
  // Raises: Error(backend) if the library refuses; Error(out_of_memory).
  void enqueue(const Bindings& values, void* stream);

 private:
  void load(const CachedPlan& plan, const GraphSpec& spec, const std::string& build_command);
  void set_shapes(const Bindings& values);
  Error error(const std::string& what, const std::string& fix = "") const;

  Shared shared_;
  std::string graph_;
  std::string plan_name_;
  SymbolRanges ranges_;
  std::vector<std::string> dynamic_inputs_;
  std::unique_ptr<LoadedPlan> plan_;
  std::map<std::string, Shape> shapes_;  // of the dynamic inputs, as last set
};

}  // namespace libfam
