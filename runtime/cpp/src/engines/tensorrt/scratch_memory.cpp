#include "engines/tensorrt/scratch_memory.h"

#include <algorithm>

#include "base/error.h"

namespace libfam {

void ScratchMemory::join(LoadedPlan& plan) {
  const std::size_t needed = std::max(plan.scratch_bytes(), kDeviceAlignment);
  if (memory_.data() != nullptr && memory_.nbytes() >= needed) {
    plans_.push_back(&plan);
    plan.set_scratch(memory_.data(), memory_.nbytes());
    return;
  }
  device_.synchronize();
  const std::size_t kept = memory_.nbytes();
  plans_.push_back(&plan);
  memory_ = DeviceMemory();  // first, so that both need not fit
  device_.trim();
  try {
    move(needed);
  } catch (...) {
    plans_.pop_back();
    if (!plans_.empty()) move(kept);  // which was just freed: the others go on
    throw;
  }
}

void ScratchMemory::leave(const LoadedPlan& plan) noexcept {
  std::erase(plans_, &plan);
  if (!plans_.empty()) return;
  memory_ = DeviceMemory();
  device_.trim();
}

void ScratchMemory::check() const {
  if (memory_.data() != nullptr) return;
  throw Error(ErrorCode::out_of_memory,
              {.what = "the engines lost their scratch memory when it had to grow",
               .expected = "free memory on the GPU",
               .fix = "free memory on the GPU, and load the bundle again"});
}

void ScratchMemory::move(std::size_t nbytes) {
  memory_ = DeviceMemory(device_, nbytes);
  for (LoadedPlan* plan : plans_) plan->set_scratch(memory_.data(), memory_.nbytes());
}

}  // namespace libfam
