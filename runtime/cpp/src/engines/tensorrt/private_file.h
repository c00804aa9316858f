// Files and folders that are this user's alone.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace libfam {

// The content of a file, mapped into memory.
class PrivateFile {
 public:
  PrivateFile() = default;
  // Takes over a mapping.
  PrivateFile(void* data, std::size_t nbytes) : data_(data), nbytes_(nbytes) {}
  ~PrivateFile();
  PrivateFile(PrivateFile&& other) noexcept;
  PrivateFile& operator=(PrivateFile&& other) noexcept;

  const void* data() const { return data_; }
  std::size_t nbytes() const { return nbytes_; }
  std::string_view bytes() const {
    return nbytes_ == 0 ? std::string_view() : std::string_view(static_cast<char*>(data_), nbytes_);
  }

 private:
  void* data_ = nullptr;
  std::size_t nbytes_ = 0;
};

// The content of a plain file of this user's. Nothing if there is none, or if it is another user's,
// a link, or may be written by others: then `damage` says so, as a clause for a sentence.
// Nothing is in a file that is not plain.
std::optional<PrivateFile> map_private_file(const std::string& path, std::string& damage);

// Whether the folder is there.
// Raises: Error(backend) if it is not this user's alone to write, or no folder; `root` is the
// cache's, for the words.
bool private_folder_exists(const std::string& folder, const std::string& root);

// Makes the folders of `parent` for everybody, and `folder` for this user, unless they are there.
// Raises: Error(storage).
void make_folders(const std::string& parent);
void make_private_folder(const std::string& folder);

// Removes a file, if it is there. Raises: Error(storage).
void remove_file(const std::string& path);

// The user's home folder, as the system's list of users has it; nothing if they are not in it.
std::optional<std::string> home_folder();

}  // namespace libfam
