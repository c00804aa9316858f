#include "engines/tensorrt/plan_runtime.h"

#include "base/error.h"
#include "engines/tensorrt/nvinfer.h"

namespace libfam {
namespace {

[[maybe_unused]] Error not_in_this_build(TensorrtName library, const std::string& option) {
  const TensorrtTraits& traits = traits_of(library);
  return {ErrorCode::backend,
          {.what = std::string("this build of libfam has no ") + traits.title,
           .expected = std::string("a build that found NvInfer.h of ") + traits.title,
           .fix = "build it with cmake -D" + option + "=DIR, the folder that NVIDIA's archive " +
                  "was unpacked to; or use the onnxruntime backend"}};
}

}  // namespace

std::unique_ptr<PlanRuntime> open_plan_runtime(TensorrtName library) {
  if (library == TensorrtName::tensorrt) {
#ifdef FAM_WITH_TENSORRT
    return open_nvinfer();
#else
    throw not_in_this_build(library, "TENSORRT_ROOT");
#endif
  }
#ifdef FAM_WITH_TENSORRT_RTX
  return open_nvinfer_rtx();
#else
  throw not_in_this_build(library, "TENSORRT_RTX_ROOT");
#endif
}

}  // namespace libfam
