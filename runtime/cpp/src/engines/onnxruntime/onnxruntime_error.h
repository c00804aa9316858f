// Errors of ONNX Runtime as errors of this library.
#pragma once

#include <string>

#include "base/error.h"
#include "engines/onnxruntime/library.h"

namespace libfam {

// What onnxruntime said while `what` happened, with advice where there is some.
// Error(out_of_memory) if it speaks of memory, else Error(backend).
Error error_from_onnxruntime(const std::string& what, const Ort::Exception& error);

}  // namespace libfam
