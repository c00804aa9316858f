// Numbers of a call, checked.
#pragma once

#include <cstdint>
#include <string>

namespace libfam {

// `value`, at least `minimum`. Raises: Error(invalid_request).
std::int64_t whole_number(const std::string& what, std::int64_t value, std::int64_t minimum = 1);

// `value`, from `low` to `high`, which NaN is not. Raises: Error(invalid_request).
double real_number(const std::string& what, double value, double low, double high);

}  // namespace libfam
