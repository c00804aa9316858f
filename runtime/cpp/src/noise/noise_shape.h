// How many values a request for noise has.
#pragma once

#include <cstddef>

#include "base/tensor.h"

namespace libfam {

// The number of elements of `shape`.
// Raises: Error(invalid_request) if a dimension is negative; std::bad_alloc if no memory could hold
// that many float32.
std::size_t noise_size(const Shape& shape);

}  // namespace libfam
