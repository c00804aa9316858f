#include "api/last_error.h"

#include <new>
#include <string>

#include "base/error.h"

namespace libfam::api {
namespace {

constexpr const char* kNoMemory =
    "the memory is used up | use low_memory, a smaller size or a smaller tile";
constexpr const char* kMistake = "a mistake of this library, which has no words for it";

// `words` are those to show where there is no memory to keep a copy of others.
struct LastError {
  std::string text;
  const char* words = "";
};

LastError& of_this_thread() {
  thread_local LastError error;
  return error;
}

fam_status remember(fam_status status, const char* text, const char* otherwise) noexcept {
  LastError& error = of_this_thread();
  try {
    error.text = text;
    error.words = error.text.c_str();
  } catch (...) {
    error.words = otherwise;
  }
  return status;
}

}  // namespace

fam_status guarded(const std::function<void()>& work) noexcept {
  try {
    work();
    return FAM_OK;
  } catch (const Error& error) {
    return remember(static_cast<fam_status>(error.code()), error.what(), kMistake);
  } catch (const std::bad_alloc&) {
    return remember(FAM_ERROR_OUT_OF_MEMORY, kNoMemory, kNoMemory);
  } catch (const std::exception& error) {
    return remember(FAM_ERROR_INTERNAL, error.what(), kMistake);
  } catch (...) {
    return remember(FAM_ERROR_INTERNAL, kMistake, kMistake);
  }
}

const char* last_error() noexcept { return of_this_thread().words; }

}  // namespace libfam::api
