// How an engine was built, as far as its key tells.
//
// libfam builds none. Its backend asks for what the Python runtime builds by default; the other
// settings are here because the key is the same function of them in both.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engines/tensorrt/symbol_ranges.h"

namespace libfam {

struct BuildSettings {
  // How many pictures an engine takes at once.
  SymbolRange batch;
  // Let float32 products round their factors to 10 bits of mantissa. Nothing: in bundles in half
  // precision, whose few float32 parts (the VAE) lose nothing that the rest has.
  std::optional<bool> tf32;
  std::optional<std::int64_t> workspace_bytes;     // nothing: no cap
  std::optional<std::int64_t> optimization_level;  // nothing: the library's own
  bool strip_weights = false;

  // Whether engines of a bundle in `dtype` ("fp32", "fp16", "bf16") may use TF32.
  bool uses_tf32(const std::string& dtype) const { return tf32.value_or(dtype != "fp32"); }
};

// What an engine of `graph` is built for when it is to run at `sizes` of its symbols.
//
// Text encoders and the VAE run picture by picture, the UNet's graphs in batches: these get the
// range of the settings where the batch is in it. All other sizes are static.
SymbolRanges ranges_of(const std::string& graph, const Sizes& sizes, const BuildSettings& settings);

}  // namespace libfam
