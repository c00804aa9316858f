// Files that appear whole or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace libfam {

// Who may read and write a new file: as the process's umask says, or this user alone.
enum class FileAccess { by_umask, this_user };

// Writes `content` under a temporary name in the folder of `path`, which must exist, syncs it and
// renames it. Of two writers of one file the last to finish wins, and the file is whole.
// Raises: Error(storage); no temporary file is left behind. Where only the folder could not be
// synced, the new file is in place.
void write_atomically(const std::string& path, const std::vector<std::uint8_t>& content,
                      FileAccess access = FileAccess::by_umask);

}  // namespace libfam
