// Paths as Python's pathlib writes them on POSIX systems, since messages show them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace libfam {

// str(Path(path)): without repeated slashes, "." components and a slash at the end; "." for
// nothing.
std::string path_text(std::string_view path);

// str(Path(folder) / name), for a relative `name`.
std::string path_below(std::string_view folder, std::string_view name);

// The members of Path of the same names, as text; `path` as path_text gives it.
std::string path_name(std::string_view path);
std::string path_parent(std::string_view path);
std::string path_stem(std::string_view path);
std::string path_suffix(std::string_view path);

// The path that the standard library means by `path`, which is UTF-8.
std::filesystem::path system_path(std::string_view path);

}  // namespace libfam
