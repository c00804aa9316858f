// The words of a thread's last failure, and the one place where exceptions become a status.
#pragma once

#include <functional>

#include "fam/fam.h"

namespace libfam::api {

// Runs `work`; whatever it throws becomes a status, and its words this thread's last error.
fam_status guarded(const std::function<void()>& work) noexcept;

const char* last_error() noexcept;

}  // namespace libfam::api
