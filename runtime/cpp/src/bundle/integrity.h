// Size and SHA-256 of a bundle's files, compared with what its manifest lists.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bundle/confined_files.h"
#include "bundle/reader.h"

namespace libfam {

// Bytes hashed between two reports to HashProgress.
inline constexpr std::size_t kHashChunkBytes = std::size_t{1} << 20;

// Compares the file `name` below `root` with its record; without `contents`, its size only.
// Returns the status of the very file that was compared.
// Raises: Error(bundle_path_refused) if it is a link or no plain file; Error(bundle_damaged) if it
// is missing, or not the file that the manifest lists; Error(cancelled) if `progress` says so.
FileStatus verify_file(const std::string& root, std::string_view name, const FileRecord& expected,
                       bool contents, const HashProgress& progress = {});

// The content of the file: the very bytes that were hashed.
// Raises: as verify_file, and above `max_bytes`.
std::string checked_bytes(const std::string& root, std::string_view name,
                          const FileRecord& expected, std::uint64_t max_bytes);

}  // namespace libfam
