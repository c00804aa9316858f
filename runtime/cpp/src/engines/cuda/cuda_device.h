// A GPU through the CUDA runtime library: one device, one stream.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "engines/cuda/cuda_library.h"
#include "engines/cuda/memory_pool.h"
#include "engines/cuda/pinned_staging.h"
#include "engines/device.h"

namespace libfam {

// Not for use by several threads at once; activate() in every thread that uses it.
class CudaDevice final : public Device {
 public:
  // Device `index`, as CUDA counts, which becomes the current one of this thread.
  // Raises: Error(backend) if there is none.
  CudaDevice(std::shared_ptr<const CudaLibrary> library, int index);
  // Waits for the stream, and frees everything, whatever CUDA says.
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  bool is_host() const override { return false; }
  std::string name() const override { return name_; }
  // "sm89" for compute capability 8.9.
  std::string architecture() const { return architecture_; }
  void activate() override;
  // It does not wait for the legacy stream, nor that for it.
  void* stream() override { return stream_; }

  void* allocate(std::size_t nbytes) override { return memory_.allocate(nbytes); }
  void free(void* address) noexcept override { memory_.release(address); }
  void trim() noexcept override { memory_.trim(); }
  void copy_to_device(void* target, const void* source, std::size_t nbytes) override;
  void copy_to_host(void* target, const void* source, std::size_t nbytes) override;
  void fill_zero(void* address, std::size_t nbytes) override;
  void synchronize() override;
  // What the device has left, and what is kept for the next who needs as much.
  std::optional<std::size_t> free_memory_bytes() override;
  std::optional<std::size_t> total_memory_bytes() override;

 private:
  std::string name_of_device() const;
  std::string architecture_of_device() const;
  struct MemoryBytes {
    std::size_t free = 0;
    std::size_t total = 0;
  };
  MemoryBytes memory_bytes() const;
  void* take_memory(std::size_t nbytes);
  void give_memory_back(void* address) noexcept;

  std::shared_ptr<const CudaLibrary> cuda_;
  int index_;
  std::string name_;
  std::string architecture_;
  cuda::Stream stream_ = nullptr;
  MemoryPool memory_;
  std::unique_ptr<PinnedStaging> staging_;
};

// The GPU number `index`; see cuda_device() in engines/device.h.
std::unique_ptr<CudaDevice> open_cuda_device(int index);

}  // namespace libfam
