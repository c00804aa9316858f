// What is said of a bundle's files that cannot be used; `name` is the file's name in the bundle.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace libfam {

// The words of the system for an errno, such as "Permission denied".
std::string system_words(int error_number);

// BundleDamaged: there is no such file.
Error missing_file(std::string_view name);

// BundleDamaged: it is there but cannot be read.
Error unreadable_file(std::string_view name, int error_number);

// BundlePathRefused: it is no plain file with one name in plain directories. `what` follows its
// name in the sentence.
Error refused_file(std::string_view name, std::string_view what, const std::string& got);

}  // namespace libfam
