// The tensorrt and tensorrt-rtx backends: engines from the cache of the Python runtime.
#pragma once

#include <memory>

#include "engines/engine.h"

namespace libfam {

// `options.name` is "tensorrt" or "tensorrt-rtx".
// Raises: Error(backend) if the library is missing, too old or not in this build, or if there is no
// GPU.
std::unique_ptr<Backend> open_tensorrt_backend(const BackendOptions& options);

}  // namespace libfam
