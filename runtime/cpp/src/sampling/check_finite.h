// Numbers that a model made, looked at before they go on.
#pragma once

#include <string>

#include "base/tensor.h"

namespace libfam {

// Checks that `tensor`, made by a model in `model_dtype` ("fp32", "fp16" or "bf16"), holds neither
// NaN nor infinity; `what` such as "the native latent". Raises: Error(numeric) if it does.
void check_finite(const std::string& what, const HostTensor& tensor,
                  const std::string& model_dtype);

}  // namespace libfam
