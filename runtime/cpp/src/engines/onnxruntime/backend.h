// The onnxruntime backend: the CPU, and GPUs through ONNX Runtime's execution providers.
#pragma once

#include <memory>

#include "engines/engine.h"

namespace libfam {

// Raises: Error(invalid_request) if an option cannot be; Error(backend) if the library is too old,
// has no such provider, or there is no such GPU.
std::unique_ptr<Backend> open_onnxruntime_backend(const BackendOptions& options);

}  // namespace libfam
