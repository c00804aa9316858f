// The errors a user can meet: one type with a code, its text `what | got | expected | fix`.
//
// The codes are those of the C ABI (fam/fam.h), one for each class of Python's fam_runtime.errors,
// and the texts are the same as there.
#pragma once

#include <exception>
#include <optional>
#include <string>

#include "base/python_text.h"

namespace libfam {

enum class ErrorCode : int {
  invalid_request = 1,
  target_not_built = 2,
  bundle_not_found = 3,
  bundle_damaged = 4,
  bundle_path_refused = 5,
  bundle_version_unsupported = 6,
  storage = 7,
  backend = 8,
  out_of_memory = 9,
  numeric = 10,
  cancelled = 11,
  busy = 12,
  internal = 13,
};

// Name of the Python class that stands for `code`, such as "BundleDamaged"; "FamError" for the two
// that Python does not have (busy, internal).
const char* python_class_of(ErrorCode code);

// The parts of a message. Left out of the text: `got` if there is none, the others if empty.
struct ErrorParts {
  std::string what;
  std::optional<Repr> got = std::nullopt;
  std::string expected = "";
  std::string fix = "";
};

class Error : public std::exception {
 public:
  Error(ErrorCode code, ErrorParts parts);

  ErrorCode code() const noexcept { return code_; }
  const ErrorParts& parts() const noexcept { return parts_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  ErrorCode code_;
  ErrorParts parts_;
  std::string text_;
};

// The StorageError (out of space, no permission, other) for an errno met while writing `path`.
Error storage_error(int error_number, const std::string& path);

}  // namespace libfam
