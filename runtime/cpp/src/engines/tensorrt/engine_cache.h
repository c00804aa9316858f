// Engines on the disk: found by everything they depend on, or said why there is none.
//
// <root>/<library>-<version>-<GPU>-<platform>/<model>/<graph>-<key>.plan, each with its record: the
// cache of the Python runtime, which builds the engines. Here they are only read, and beside them
// TensorRT for RTX keeps the kernels it compiled.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engines/tensorrt/engine_key.h"
#include "engines/tensorrt/symbol_ranges.h"
#include "engines/tensorrt/verified_store.h"

namespace libfam {

// A plan whose bytes are those that were built.
struct CachedPlan {
  PrivateFile data;
  std::string name;  // in the cache
  SymbolRanges ranges;
};

// A plan, or in one sentence why there is none; empty: it was never built.
struct PlanSearch {
  std::optional<CachedPlan> plan;
  std::string why;
};

class EngineCache {
 public:
  // An empty `root` is default_cache_dir().
  explicit EngineCache(const std::string& root);

  const VerifiedStore& store() const { return store_; }

  // Where the plan of `key` is, relative to the root. `model`: name of the bundle's model; `graph`:
  // name of the graph's file.
  static std::string plan_name(const std::string& model, const std::string& graph,
                               const EngineKey& key);

  // The plan of exactly `key`. Raises: Error(backend) if the cache is not safe.
  PlanSearch find(const std::string& model, const std::string& graph, const EngineKey& key) const;

  // Of the engines that differ from `key` in nothing but the shapes and the limits they were built
  // with, the one whose ranges hold `sizes` most narrowly.
  //
  // Python knows which ranges its user chose, and asks for these. We do without because libfam has
  // no such options: what was built is what was chosen. Flags are not among what may differ: they
  // decide how a picture is computed.
  std::optional<CachedPlan> find_for_sizes(const std::string& model, const std::string& graph,
                                           const EngineKey& key, const Sizes& sizes) const;

  // Kernels that TensorRT for RTX compiled for a plan in earlier runs; empty without any.
  std::vector<std::uint8_t> kernels(const std::string& plan_name) const;
  // Writes them, unless they are the ones that are there. They only save time: that they cannot be
  // kept stops nothing.
  void keep_kernels(const std::string& plan_name,
                    const std::vector<std::uint8_t>& data) const noexcept;

 private:
  struct Known {
    std::string name;
    EngineKey key;
  };

  std::vector<Known> records(const std::vector<std::string>& folders, const std::string& model,
                             const std::string& graph) const;
  std::string why_another(const std::string& model, const std::string& graph,
                          const EngineKey& key) const;

  VerifiedStore store_;
};

// fam-diffusion/engines in .cache of the user's home folder. The environment is not read: libfam
// never does, so that a program decides alone what it does.
// Raises: Error(backend) if there is no home folder.
std::string default_cache_dir();

// `text` as a part of a file name: lower case, no separators, at most 64 characters.
std::string slug(std::string_view text);

}  // namespace libfam
