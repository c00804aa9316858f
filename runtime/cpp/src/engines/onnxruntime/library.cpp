#include "engines/onnxruntime/library.h"

#include <stdexcept>

#include "base/error.h"

namespace libfam {
namespace {

const OrtApi& api_of_library() {
  const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    throw Error(ErrorCode::backend,
                {.what = "the ONNX Runtime library is too old",
                 .got = repr(onnxruntime_version()),
                 .expected = "1." + std::to_string(ORT_API_VERSION) + " or newer",
                 .fix = "install a newer ONNX Runtime library"});
  }
  return *api;
}

std::shared_ptr<Ort::Env> new_environment() {
  Ort::InitApi(&api_of_library());
  return std::make_shared<Ort::Env>(ORT_LOGGING_LEVEL_FATAL, "fam");
}

}  // namespace

std::shared_ptr<Ort::Env> onnxruntime_environment() {
  // Kept until the process ends. ONNX Runtime frees an environment outside of its own lock, where
  // making the next one fails ("Only one instance of LoggingManager"); and with an environment it
  // unloads its GPU providers.
  static const std::shared_ptr<Ort::Env> environment = new_environment();
  return environment;
}

std::string onnxruntime_version() { return OrtGetApiBase()->GetVersionString(); }

std::vector<std::string> available_providers() { return Ort::GetAvailableProviders(); }

ONNXTensorElementDataType element_type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Dtype::float16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Dtype::bfloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case Dtype::int64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case Dtype::int32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Dtype::boolean:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
  }
  throw std::logic_error("unknown dtype");
}

}  // namespace libfam
