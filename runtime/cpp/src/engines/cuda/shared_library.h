// A shared library that is loaded while the program runs, so that it need not be there.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace libfam {

// It stays loaded until the process ends: CUDA's libraries, and those above them, leave threads and
// exit handlers behind that would run code which is no more.
class SharedLibrary {
 public:
  // The library called `name`, a path or a name for the system's loader; if it cannot be loaded,
  // nothing, and the loader's words are in `reason`.
  static std::optional<SharedLibrary> open(const std::string& name, std::string& reason);

  const std::string& name() const { return name_; }
  // The address of a function; null if the library has none of this name.
  void* symbol(const char* name) const;

  // Fills a pointer to a function; false if the library has none of this name.
  template <typename Function>
  bool find(const char* name, Function*& function) const {
    // POSIX and Windows both promise that an object pointer can hold a function's address.
    function = reinterpret_cast<Function*>(symbol(name));
    return function != nullptr;
  }

 private:
  SharedLibrary(std::string name, void* handle) : name_(std::move(name)), handle_(handle) {}

  std::string name_;
  void* handle_;
};

}  // namespace libfam
