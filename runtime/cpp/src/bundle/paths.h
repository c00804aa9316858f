// Names of files in a bundle, as text; bundle/confined_files.h leads from a name to a file.
#pragma once

#include <cstddef>
#include <string_view>

namespace libfam {

// Longer names cannot be opened on every system; in code points.
inline constexpr std::size_t kMaxNameCharacters = 512;

// Longer components (in UTF-8) cannot be created on the common file systems.
inline constexpr std::size_t kMaxComponentBytes = 255;

// `name`, UTF-8, if it is a relative path that stays in the bundle (bundle_format.md, Paths).
// Raises: Error(bundle_path_refused) if it is not.
std::string_view check_name(std::string_view name);

}  // namespace libfam
