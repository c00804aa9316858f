// From a graph file to an ONNX Runtime session.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "engines/onnxruntime/library.h"
#include "engines/onnxruntime/provider.h"
#include "engines/onnxruntime/shared_weights.h"

namespace libfam {

struct SessionSettings {
  std::string provider = "cpu";
  int num_threads = 0;  // of an operator; 0 leaves it to ONNX Runtime (one per core)
  // Weights stay in one memory-mapped file, shared by all sessions, without the copies in a faster
  // layout that ONNX Runtime would make; memory is given back after each run. Less memory, and
  // slower; products are summed in another order, so a colour may differ by 1 of 255 here and
  // there. float16 weights are converted to float32 in every run.
  bool low_memory = false;

  // Raises: Error(invalid_request).
  void check() const;
};

// Loads the graph in the file `path`. `weights`: shared tensors for a UNet's graph in low-memory
// mode, or null. `gpu`: for every provider but "cpu".
// Raises: Error(backend) if ONNX Runtime refuses the graph or cannot load the provider;
// Error(out_of_memory).
Ort::Session open_session(const Ort::Env& environment, const std::filesystem::path& path,
                          const SessionSettings& settings, const SharedWeights* weights,
                          const std::optional<GpuPlace>& gpu);

}  // namespace libfam
