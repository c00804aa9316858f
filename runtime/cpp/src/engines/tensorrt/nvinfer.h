// NVIDIA's two libraries behind PlanRuntime; each is in builds that found its headers.
#pragma once

#include <memory>

#include "engines/tensorrt/plan_runtime.h"

namespace libfam {

// With FAM_WITH_TENSORRT. Raises: Error(backend).
std::unique_ptr<PlanRuntime> open_nvinfer();

// With FAM_WITH_TENSORRT_RTX. Raises: Error(backend).
std::unique_ptr<PlanRuntime> open_nvinfer_rtx();

}  // namespace libfam
