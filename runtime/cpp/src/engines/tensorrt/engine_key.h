// What an engine depends on, as a key, and in words where two keys differ.
//
// It is the key of the Python runtime, which builds the engines: the same inputs give the same
// digest, and so the same place in the cache.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/reader.h"
#include "engines/tensorrt/build_settings.h"
#include "engines/tensorrt/library.h"
#include "engines/tensorrt/symbol_ranges.h"

namespace libfam {

// Counts changes of the builder, in Python, that make another engine out of the same inputs.
inline constexpr std::int64_t kBuilderRevision = 1;

// The GPU that engines are for.
struct Gpu {
  std::string architecture;  // "sm89"
  // Where kernels are timed on the GPU itself, so that an engine is for this model alone; empty
  // where the architecture decides.
  std::string name;
};

// Everything that decides what is in a plan.
struct EngineKey {
  std::string library;  // who built it
  std::string version;
  std::string architecture;
  std::string gpu;                 // its name; empty where the architecture decides
  std::string platform;            // operating system and processor
  std::string graph_sha256;        // of the .onnx file
  std::string weights_sha256;      // of the weights beside it; empty where there are none
  std::string shapes;              // the range of every symbol, as text
  std::string dtype;               // of the model
  std::vector<std::string> flags;  // of the builder, sorted
  std::optional<std::int64_t> workspace_bytes;     // nothing: the library's own
  std::optional<std::int64_t> optimization_level;  // nothing: the library's own
  std::int64_t revision = kBuilderRevision;

  bool operator==(const EngineKey&) const = default;

  // The text that is hashed: json.dumps(…, sort_keys=True) of all fields, in ASCII.
  std::string json() const;
  // Its SHA-256, hexadecimal.
  std::string digest() const;
};

// The key in a record's details; nothing if it has not the fields of a key, or of other types.
std::optional<EngineKey> key_from_json(std::string_view text);

// The key of an engine of `graph`, a file of `bundle`.
EngineKey engine_key(const Bundle& bundle, const std::string& graph, const SymbolRanges& ranges,
                     const TensorrtTraits& library, const std::string& version, const Gpu& gpu,
                     const BuildSettings& settings);

// Names of the builder's flags, sorted.
std::vector<std::string> builder_flags(const TensorrtTraits& library, const BuildSettings& settings,
                                       const std::string& dtype);

// This machine's, as Python's platform module names it: "linux-x86_64".
std::string platform_name();

// What differs, as clauses for a sentence; the most telling one first.
std::vector<std::string> differences(const EngineKey& old, const EngineKey& wanted);

}  // namespace libfam
