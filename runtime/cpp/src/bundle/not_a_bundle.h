// What to tell a user whose path is not a bundle.
#pragma once

#include <string>

#include "base/error.h"

namespace libfam {

// BundleNotFound for `path`, which holds no manifest.json, with the most likely remedy. `path` as
// path_text gives it.
// Raises: std::system_error if the system does not say what is there.
Error not_a_bundle(const std::string& path);

}  // namespace libfam
