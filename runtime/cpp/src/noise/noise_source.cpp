#include "noise/noise_source.h"

#include "base/error.h"
#include "noise/torch_cpu.h"
#include "noise/torch_cuda.h"

namespace libfam {

std::unique_ptr<NoiseSource> noise_source(const std::string& name, Seed seed) {
  if (name == "torch-cpu") return std::make_unique<TorchCpuNoise>(seed);
  if (name == "torch-cuda") return std::make_unique<TorchCudaNoise>(seed);
  throw Error(ErrorCode::invalid_request,
              {.what = "unknown noise source",
               .got = repr(name),
               .expected = "torch-cpu or torch-cuda",
               .fix = std::string("use ") + kDefaultNoiseSource + ", the default"});
}

}  // namespace libfam
