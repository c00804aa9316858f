#include "engines/cuda/shared_library.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace libfam {

#ifdef _WIN32

std::optional<SharedLibrary> SharedLibrary::open(const std::string& name, std::string& reason) {
  HMODULE handle = LoadLibraryA(name.c_str());
  if (handle == nullptr) {
    reason = name + ": error " + std::to_string(GetLastError());
    return std::nullopt;
  }
  return SharedLibrary(name, reinterpret_cast<void*>(handle));
}

void* SharedLibrary::symbol(const char* name) const {
  return reinterpret_cast<void*>(GetProcAddress(reinterpret_cast<HMODULE>(handle_), name));
}

#else

std::optional<SharedLibrary> SharedLibrary::open(const std::string& name, std::string& reason) {
  void* handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* text = ::dlerror();
    reason = text != nullptr ? text : name;
    return std::nullopt;
  }
  return SharedLibrary(name, handle);
}

void* SharedLibrary::symbol(const char* name) const { return ::dlsym(handle_, name); }

#endif

}  // namespace libfam
