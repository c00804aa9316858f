#include "engines/tensorrt/backend.h"

#include <utility>

#include "engines/cuda/cuda_device.h"
#include "engines/tensorrt/tensorrt_backend.h"

namespace libfam {

std::unique_ptr<Backend> open_tensorrt_backend(const BackendOptions& options) {
  const TensorrtName library =
      options.name == "tensorrt-rtx" ? TensorrtName::tensorrt_rtx : TensorrtName::tensorrt;
  std::unique_ptr<PlanRuntime> runtime = open_plan_runtime(library);
  std::unique_ptr<CudaDevice> device = open_cuda_device(options.device_index);
  Gpu gpu{device->architecture(), device->name()};
  return std::make_unique<TensorrtBackend>(std::move(device), std::move(gpu), std::move(runtime),
                                           options.cache_dir);
}

}  // namespace libfam
