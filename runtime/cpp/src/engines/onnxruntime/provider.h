// ONNX Runtime's execution providers: who runs a graph.
#pragma once

#include <string>

#include "engines/onnxruntime/library.h"

namespace libfam {

// Where a session computes on a GPU.
struct GpuPlace {
  int device_index = 0;
  void* stream = nullptr;
  bool tf32 = false;  // whether float32 products may be rounded to TensorFloat-32
  std::string
      engine_folder;  // where the TensorRT providers keep what they compiled; empty: nowhere
};

// ONNX Runtime's name of "cpu", "cuda", "tensorrt" or "tensorrt-rtx".
// Raises: Error(invalid_request) for any other.
std::string provider_name(const std::string& provider);

// Raises: Error(backend) if the library has no such provider.
void check_provider(const std::string& provider);

// Makes a session compute on a GPU. The TensorRT providers leave what they cannot run to CUDA's.
// Raises: Error(backend) if the library has the provider and cannot load it.
void append_gpu_provider(Ort::SessionOptions& options, const std::string& provider,
                         const GpuPlace& place);

}  // namespace libfam
