// TensorRT. Compiled with the folder of its NvInfer.h, and CUDA's headers, in the include path.
#ifdef FAM_WITH_TENSORRT

#include "engines/tensorrt/nvinfer_runtime.inc"

namespace libfam {

std::unique_ptr<PlanRuntime> open_nvinfer() {
#ifdef _WIN32
  return open_library(TensorrtName::tensorrt,
                      "nvinfer_" + std::to_string(NV_TENSORRT_MAJOR) + ".dll");
#else
  return open_library(TensorrtName::tensorrt, "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR));
#endif
}

}  // namespace libfam

#endif
