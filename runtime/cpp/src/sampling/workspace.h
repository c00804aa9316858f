// The buffers of a plan in a device's memory, where later stages find them at the same addresses.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "engines/device.h"
#include "sampling/buffer_plan.h"

namespace libfam {

// Named memory that grows when a plan needs more, and never moves otherwise.
class Workspace {
 public:
  // `device` must outlive the workspace.
  explicit Workspace(Device& device) : device_(device) {}

  // Holds every buffer of `plan`.
  // Raises: Error(out_of_memory) if the device has not so much memory free.
  void ensure(const BufferPlan& plan);

  // The tensor in slot `index` of `buffer`, in place.
  TensorView slot(const Buffer& buffer, std::size_t index) const;

  // Frees a slot that nobody needs any more, on the host, where each slot of the taps is an
  // allocation of its own; on a GPU the slot stays, for the next call.
  void release(const Buffer& buffer, std::size_t index) noexcept;

  void clear() noexcept { held_.clear(); }
  std::size_t nbytes() const;  // what is held

 private:
  // One allocation for all slots, or one for each.
  using Blocks = std::vector<DeviceMemory>;

  bool holds(const Buffer& buffer) const;
  bool slot_by_slot(const Buffer& buffer) const;
  void check_room(const BufferPlan& plan, const std::vector<const Buffer*>& grown) const;

  Device& device_;
  std::map<std::string, Blocks, std::less<>> held_;
};

}  // namespace libfam
