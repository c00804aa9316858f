#include "sampling/native_attention.h"

#include <limits>
#include <stdexcept>

namespace libfam {
namespace {

constexpr std::uint64_t kBudgetShareOfFreeMemory = 4;
constexpr std::uint64_t kFallbackBudgetBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

std::uint64_t product(std::uint64_t a, std::uint64_t b) {
  return a != 0 && b > kMost / a ? kMost : a * b;
}

}  // namespace

std::uint64_t stored_bytes(const std::vector<TensorSpec>& specs, const Sizes& sizes,
                           std::int64_t steps) {
  std::uint64_t sum = 0;
  for (const TensorSpec& spec : specs) {
    std::uint64_t nbytes = bytes_of(spec.dtype);
    for (const std::int64_t dimension : shape_from_symbols(spec.shape, sizes)) {
      nbytes = product(nbytes, static_cast<std::uint64_t>(dimension));
    }
    sum = nbytes > kMost - sum ? kMost : sum + nbytes;
  }
  return product(sum, static_cast<std::uint64_t>(steps));
}

std::uint64_t default_memory_budget_bytes(Device& device, std::size_t held_bytes) {
  const auto free = device.free_memory_bytes();
  return free ? (*free + held_bytes) / kBudgetShareOfFreeMemory : kFallbackBudgetBytes;
}

NativeAttention choose_native_attention(std::string_view mode, double am_strength,
                                        std::uint64_t needed_bytes, std::uint64_t budget_bytes) {
  if (am_strength == 0) return NativeAttention::none;
  if (mode == "store") return NativeAttention::store;
  if (mode == "replay") return NativeAttention::replay;
  if (mode != "auto") throw std::logic_error("unknown native_attention");
  return needed_bytes <= budget_bytes ? NativeAttention::store : NativeAttention::replay;
}

}  // namespace libfam
