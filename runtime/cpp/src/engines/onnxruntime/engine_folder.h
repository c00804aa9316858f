// Where ONNX Runtime's TensorRT providers keep what they compiled.
#pragma once

#include <string>

namespace libfam {

// <cache_dir>/onnxruntime-<version>-<provider>/<bundle_hash>, which is made if it is not there; an
// empty `cache_dir` is the user's (default_cache_dir).
//
// The providers load native code from it and compare no hashes, so it must be this user's alone.
// Raises: Error(backend) if it is not, or the user has no home folder; Error(storage).
std::string engine_folder(const std::string& cache_dir, const std::string& provider,
                          const std::string& bundle_hash);

}  // namespace libfam
