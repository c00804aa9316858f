// The ONNX Runtime library that this process has loaded, through its C++ API.
#pragma once

#include <memory>
#include <string>
#include <vector>

// Nothing runs while the library is being loaded; onnxruntime_environment() begins.
#ifndef ORT_API_MANUAL_INIT
#define ORT_API_MANUAL_INIT
#endif
#include <onnxruntime_cxx_api.h>

#include "base/tensor.h"

namespace libfam {

// The one environment of the process. It logs nothing: errors reach the caller, and the library
// would print them as well. Any thread may ask; who holds it may outlive this library's globals.
// Raises: Error(backend) if the library is older than the headers of this build.
std::shared_ptr<Ort::Env> onnxruntime_environment();

// Such as "1.21.0".
std::string onnxruntime_version();

// Names such as "CPUExecutionProvider". Only after onnxruntime_environment().
std::vector<std::string> available_providers();

ONNXTensorElementDataType element_type_of(Dtype dtype);

}  // namespace libfam
