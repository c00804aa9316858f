#include <utility>

#include "engines/device.h"

namespace libfam {

DeviceMemory::DeviceMemory(Device& device, std::size_t nbytes)
    : device_(&device), data_(device.allocate(nbytes)), nbytes_(nbytes) {}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) device_->free(data_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      nbytes_(std::exchange(other.nbytes_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  DeviceMemory taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(data_, taken.data_);
  std::swap(nbytes_, taken.nbytes_);
  return *this;
}

}  // namespace libfam
