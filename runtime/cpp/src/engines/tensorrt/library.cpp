#include "engines/tensorrt/library.h"

#include "base/error.h"

namespace libfam {
namespace {

// The oldest are the first TensorRT that gives contexts memory by address and size, and the oldest
// TensorRT for RTX that the Python runtime builds with.
constexpr TensorrtTraits kTensorrt{TensorrtName::tensorrt, "tensorrt", "TensorRT", 10, 2, false};
constexpr TensorrtTraits kTensorrtRtx{
    TensorrtName::tensorrt_rtx, "tensorrt-rtx", "TensorRT for RTX", 1, 4, true};

}  // namespace

const TensorrtTraits& traits_of(TensorrtName library) {
  return library == TensorrtName::tensorrt ? kTensorrt : kTensorrtRtx;
}

std::string TensorrtVersion::text() const {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch) + "." +
         std::to_string(build);
}

std::vector<std::string> TensorrtVersion::spellings() const {
  const std::string whole = text();
  return {whole, whole.substr(0, whole.rfind('.'))};
}

void check_version(const TensorrtTraits& traits, const TensorrtVersion& version) {
  const bool is_older =
      version.major < traits.oldest_major ||
      (version.major == traits.oldest_major && version.minor < traits.oldest_minor);
  if (!is_older) return;
  throw Error(
      ErrorCode::backend,
      {.what = std::string("this ") + traits.title + " is too old",
       .got = repr(version.text()),
       .expected = "version " + std::to_string(traits.oldest_major) + "." +
                   std::to_string(traits.oldest_minor) + " or newer",
       .fix = std::string("install a newer ") + traits.title + ", or use the onnxruntime backend"});
}

}  // namespace libfam
