// Where a backend computes: the host's memory, or a GPU's, with one stream on which everything
// happens in order.
//
// Both are driven in the same way, from buffers that are planned before the first step
// (docs/buffer_plan.md): the host is a device whose copies are memcpy.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

namespace libfam {

// Every allocation begins at a multiple of this, and so does every slot of a buffer.
inline constexpr std::size_t kDeviceAlignment = 256;

// Rounded up to the alignment; at least one unit.
inline std::size_t aligned(std::size_t nbytes) {
  const std::size_t units = nbytes / kDeviceAlignment + (nbytes % kDeviceAlignment != 0 ? 1 : 0);
  return (units == 0 ? 1 : units) * kDeviceAlignment;
}

class Device {
 public:
  virtual ~Device() = default;

  virtual bool is_host() const = 0;
  virtual std::string name() const = 0;  // such as "NVIDIA L4"
  // Makes the device current in this thread: a thread begins with the first device.
  virtual void activate() {}
  // Handle of the stream, for libraries that put work on it; null on the host.
  virtual void* stream() { return nullptr; }

  // Raises: Error(out_of_memory).
  virtual void* allocate(std::size_t nbytes) = 0;
  virtual void free(void* address) noexcept = 0;
  // Gives up memory that was freed and is kept for the next allocation, so that others can have it.
  virtual void trim() noexcept {}
  // In the order of the stream; `source` may be reused on return.
  virtual void copy_to_device(void* target, const void* source, std::size_t nbytes) = 0;
  // Waits for the stream.
  virtual void copy_to_host(void* target, const void* source, std::size_t nbytes) = 0;
  virtual void fill_zero(void* address, std::size_t nbytes) = 0;
  // Waits for everything on the stream. Raises: Error(backend) if something on it failed.
  virtual void synchronize() = 0;
  // Bytes that can be taken; nothing where that is not known.
  virtual std::optional<std::size_t> free_memory_bytes() = 0;
  // Bytes that there are; nothing where that is not known.
  virtual std::optional<std::size_t> total_memory_bytes() { return std::nullopt; }
};

// The host's memory.
std::unique_ptr<Device> host_device();

// The GPU number `index`, through the CUDA runtime library, which is loaded when this is called.
// Raises: Error(backend) if there is no such library or no such GPU.
std::unique_ptr<Device> cuda_device(int index);

// Memory of a device that frees itself.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Device& device, std::size_t nbytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  void* data() const { return data_; }
  std::size_t nbytes() const { return nbytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t nbytes_ = 0;
};

// Bytes that can be taken on the host without swapping, as MemAvailable and the process's control
// groups say; nothing where the system does not say.
std::optional<std::size_t> free_host_memory_bytes();

// Makes the C library return freed memory to the system, where it is glibc.
void give_back_freed_memory();

}  // namespace libfam
