// Memory for the tensors inside graphs: one block for all plans, for only one runs at a time.
//
// Left to itself, every context has its own, and the native step's would lie idle beside the
// target's.
#pragma once

#include <cstddef>
#include <vector>

#include "engines/device.h"
#include "engines/tensorrt/plan_runtime.h"

namespace libfam {

// As large as the neediest plan needs; it moves when a needier one comes.
class ScratchMemory {
 public:
  // `device`, whose one stream keeps the plans apart, must outlive this.
  explicit ScratchMemory(Device& device) : device_(device) {}

  // Gives `plan`, which has its context, the memory it needs.
  // Raises: Error(out_of_memory) if the device has not so much left; the others go on.
  void join(LoadedPlan& plan);
  // `plan` is no more; the last one leaves nothing behind.
  void leave(const LoadedPlan& plan) noexcept;

  // Raises: Error(out_of_memory) if the memory was lost: making it larger failed, and it could not
  // be had back.
  void check() const;

  std::size_t nbytes() const { return memory_.nbytes(); }  // what it takes now

 private:
  void move(std::size_t nbytes);

  Device& device_;
  DeviceMemory memory_;
  std::vector<LoadedPlan*> plans_;
};

}  // namespace libfam
