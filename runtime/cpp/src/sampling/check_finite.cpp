#include "sampling/check_finite.h"

#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "base/error.h"

namespace libfam {
namespace {

constexpr const char* kExtremes = "use fewer extremes in the settings (guidance_scale)";
constexpr const char* kFp16Overflows =
    "float16 overflows above 65504, in some checkpoints: export with --dtype bf16 or fp32, or use "
    "a checkpoint that was made for fp16";

std::int64_t count_bad(const HostTensor& tensor, std::int64_t size) {
  if (tensor.dtype != Dtype::float32) throw std::logic_error("only float32 is looked at");
  std::int64_t bad = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    if (!std::isfinite(tensor.floats()[i])) ++bad;
  }
  return bad;
}

}  // namespace

void check_finite(const std::string& what, const HostTensor& tensor,
                  const std::string& model_dtype) {
  const std::int64_t size = element_count(tensor.shape);
  const std::int64_t bad = count_bad(tensor, size);
  if (bad == 0) return;
  const bool fp16 = model_dtype == "fp16";
  throw Error(ErrorCode::numeric,
              {.what = what + " is not a number any more",
               .got = repr(std::to_string(bad) + " of " + std::to_string(size) +
                           " values are NaN or infinite"),
               .expected = "finite values",
               .fix = fp16 ? std::string(kFp16Overflows) + "; or " + kExtremes : kExtremes});
}

}  // namespace libfam
