// Files with a record of their size and SHA-256 beside them, in a folder of this user's alone.
//
// What is kept here is native code or steers its making, so nothing is given to a library before it
// has been compared with its record, and nothing is taken from a folder that somebody else may
// write. The Python runtime keeps the same files by the same rules.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engines/tensorrt/private_file.h"

namespace libfam {

// What lies beside a file.
struct StoreRecord {
  std::uint64_t bytes = 0;
  std::string sha256;
  std::string details;  // a JSON object: what the writer recorded besides
};

struct StoredFile {
  PrivateFile data;
  std::string details;
};

// What was found; or nothing, because there is none, or because of `damage`: it is truncated,
// altered, not this user's, or its record cannot be read. That is a clause for a sentence.
template <typename Found>
struct StoreReading {
  std::optional<Found> found;
  std::string damage;
};

class VerifiedStore {
 public:
  // `root` is made when something is first written, for this user only.
  explicit VerifiedStore(std::string root);

  const std::string& root() const { return root_; }
  std::string path_of(const std::string& name) const { return root_ + "/" + name; }

  // Writes a file, and its record last; a reader sees the old one, none, or this one. `name` is
  // relative to the root, `details` a JSON object.
  // Raises: Error(storage); Error(backend) if the folder is not safe.
  void write(const std::string& name, const std::vector<std::uint8_t>& content,
             const std::string& details = "{}") const;

  // A file whose bytes are those that were written. Raises: Error(backend) if the folder is not
  // safe.
  StoreReading<StoredFile> read(const std::string& name) const;

  // The record of a file, which may still be damaged itself. Raises: Error(backend) if the folder
  // is not safe.
  StoreReading<StoreRecord> record(const std::string& name) const;

  // Names of the files that have a record, in the folder `folder` and of the form prefix…suffix;
  // sorted.
  std::vector<std::string> names(const std::string& folder, const std::string& prefix,
                                 const std::string& suffix) const;
  // Names of the folders in the root, sorted.
  std::vector<std::string> folders() const;

 private:
  // From the root down to the folder of `name`.
  std::vector<std::string> folders_of(const std::string& name) const;
  bool check_folders(const std::string& name) const;
  void make_folders_of(const std::string& name) const;

  std::string root_;
};

}  // namespace libfam
