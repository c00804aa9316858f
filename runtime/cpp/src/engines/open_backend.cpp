#include "base/error.h"
#include "engines/engine.h"
#include "engines/onnxruntime/backend.h"
#include "engines/tensorrt/backend.h"

namespace libfam {
namespace {

void refuse_option(const BackendOptions& options, const char* option) {
  throw Error(ErrorCode::invalid_request,
              {.what = "the " + options.name + " backend has no such option",
               .got = repr(option),
               .expected = "cache_dir, device_index, low_memory",
               .fix = "leave it out, or use another backend"});
}

// Of options that another backend has: one that was left alone has its default.
void check_engine_options(const BackendOptions& options) {
  const BackendOptions defaults;
  if (options.provider != defaults.provider) refuse_option(options, "provider");
  if (options.num_threads != defaults.num_threads) refuse_option(options, "num_threads");
}

}  // namespace

std::unique_ptr<Backend> open_backend(const BackendOptions& options) {
  if (options.name == "onnxruntime") return open_onnxruntime_backend(options);
  if (options.name == "tensorrt" || options.name == "tensorrt-rtx") {
    check_engine_options(options);
    return open_tensorrt_backend(options);
  }
  throw Error(ErrorCode::invalid_request, {.what = "unknown backend",
                                           .got = repr(options.name),
                                           .expected = "onnxruntime or tensorrt or tensorrt-rtx",
                                           .fix = "use onnxruntime, the default"});
}

}  // namespace libfam
