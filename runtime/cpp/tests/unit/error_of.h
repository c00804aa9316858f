// The error that an action raises.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "base/error.h"

namespace libfam {

// Its code and its words; a code that there is not where nothing is raised.
inline std::pair<ErrorCode, std::string> error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {ErrorCode{}, "no error"};
}

}  // namespace libfam
