// The two libraries, and what differs between them without asking them.
#pragma once

#include <string>
#include <vector>

namespace libfam {

enum class TensorrtName { tensorrt, tensorrt_rtx };

// What a library is, before one is loaded.
struct TensorrtTraits {
  TensorrtName library;
  const char* name;   // as the options call it: "tensorrt", "tensorrt-rtx"
  const char* title;  // as NVIDIA calls it
  int oldest_major;   // the oldest version that runs what the Python runtime builds
  int oldest_minor;
  // Engines are for every GPU of an architecture, and not for the model of GPU they were timed on.
  bool builds_ahead_of_time;
};

const TensorrtTraits& traits_of(TensorrtName library);

// The version of a loaded library. Python's module gives it in four parts ("1.7.1.116") or, in
// older releases, in three ("10.2.0"), and the engine key has what Python gave.
struct TensorrtVersion {
  int major = 0;
  int minor = 0;
  int patch = 0;
  int build = 0;

  std::string text() const;                    // all four parts
  std::vector<std::string> spellings() const;  // the likelier one first
};

// Raises: Error(backend) if `version` is older than what runs our engines.
void check_version(const TensorrtTraits& traits, const TensorrtVersion& version);

}  // namespace libfam
