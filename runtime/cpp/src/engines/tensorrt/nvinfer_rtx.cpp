// TensorRT for RTX. Compiled with the folder of its NvInfer.h, and CUDA's headers, in the include
// path.
#ifdef FAM_WITH_TENSORRT_RTX

// Its headers have the names, the namespace and the classes of TensorRT's, and other virtual
// functions in them. In one program the linker would take one of the two inline functions of each
// name for both, so that here the namespace has another name. What the library exports to us are C
// functions, which have none.
#define nvinfer1 nvinfer1_rtx
#include "engines/tensorrt/nvinfer_runtime.inc"

namespace libfam {

std::unique_ptr<PlanRuntime> open_nvinfer_rtx() {
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
#ifdef _WIN32
  return open_library(TensorrtName::tensorrt_rtx,
                      "tensorrt_rtx_" + major + "_" + std::to_string(NV_TENSORRT_MINOR) + ".dll");
#else
  return open_library(TensorrtName::tensorrt_rtx, "libtensorrt_rtx.so." + major);
#endif
}

}  // namespace libfam

#endif
