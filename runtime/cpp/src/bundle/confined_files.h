// The way from a name in a bundle to a file that cannot leave the bundle.
//
// The bundle's root may itself be reached through links: the user chose it. Below it every
// component is looked at without following links, and the file is one plain file with one name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "bundle/file_status.h"

namespace libfam {

// The status of the plain file `name` below `root`, found by its path.
// Raises: Error(bundle_path_refused) for a name or a file that the format forbids;
// Error(bundle_damaged) if there is no such file, or it cannot be looked at.
FileStatus confined_status(const std::string& root, std::string_view name);

// The plain file `name` below `root`, open for reading.
//
// Between the check of a path and its use somebody could swap a component. Where the system can
// open relative to a directory without following links, that is what is done, and the open
// descriptor is what was checked; elsewhere the path is looked at before and after.
class ConfinedFile {
 public:
  // Raises: as confined_status.
  ConfinedFile(const std::string& root, std::string_view name);
  ~ConfinedFile();
  ConfinedFile(const ConfinedFile&) = delete;
  ConfinedFile& operator=(const ConfinedFile&) = delete;

  // Of the very file that is open.
  const FileStatus& status() const { return status_; }

  // Bytes at `offset`; fewer than `count` only at the end of the file.
  // Raises: std::system_error with an errno, which the caller puts into words.
  std::size_t read_at(std::uint64_t offset, void* out, std::size_t count) const;

 private:
  struct Handle;
  std::unique_ptr<Handle> handle_;
  FileStatus status_;
};

}  // namespace libfam
