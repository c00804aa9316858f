// The CUDA runtime library: the functions that a Device needs of it.
//
// It is loaded while the program runs and its few functions are declared here, so that libfam is
// built without CUDA's headers, and runs where there is no CUDA. Their interface has been the same
// since CUDA 11. A stream of one version of the library can be used by another: both stand for the
// driver's.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace libfam {

// Values of CUDA's enumerations (driver_types.h).
namespace cuda {
using Status = int;
using Stream = void*;
using Event = void*;
inline constexpr Status kSuccess = 0;
inline constexpr Status kErrorMemoryAllocation = 2;
inline constexpr int kMemcpyHostToDevice = 1;
inline constexpr int kMemcpyDeviceToHost = 2;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr int kAttributeComputeCapabilityMajor = 75;
inline constexpr int kAttributeComputeCapabilityMinor = 76;
}  // namespace cuda

// Gives the address of a function by its name; null if there is none.
using SymbolLookup = std::function<void*(const char* name)>;

class CudaLibrary {
 public:
  // `name` is for messages. Raises: Error(backend) if a function is missing.
  CudaLibrary(std::string name, const SymbolLookup& symbol);

  const std::string& name() const { return name_; }
  // "cudaErrorNoDevice: no CUDA-capable device is detected".
  std::string text(cuda::Status status) const;
  // Raises: Error(backend), "the GPU could not `what`", if `status` is an error: of this call, or
  // of an earlier one that nobody waited for.
  void check(cuda::Status status, const char* what) const;

  cuda::Status (*get_device_count)(int* count);
  cuda::Status (*set_device)(int device);
  // The struct begins with the name in every version; nothing else of it is read here.
  cuda::Status (*get_device_properties)(void* properties, int device);
  cuda::Status (*device_get_attribute)(int* value, int attribute, int device);
  cuda::Status (*stream_create_with_flags)(cuda::Stream* stream, unsigned flags);
  cuda::Status (*stream_destroy)(cuda::Stream stream);
  cuda::Status (*stream_synchronize)(cuda::Stream stream);
  cuda::Status (*malloc)(void** address, std::size_t nbytes);
  cuda::Status (*free)(void* address);
  cuda::Status (*malloc_host)(void** address, std::size_t nbytes);
  cuda::Status (*free_host)(void* address);
  cuda::Status (*memcpy_async)(void* target, const void* source, std::size_t nbytes, int kind,
                               cuda::Stream stream);
  cuda::Status (*memset_async)(void* address, int value, std::size_t nbytes, cuda::Stream stream);
  cuda::Status (*event_create_with_flags)(cuda::Event* event, unsigned flags);
  cuda::Status (*event_record)(cuda::Event event, cuda::Stream stream);
  cuda::Status (*event_synchronize)(cuda::Event event);
  cuda::Status (*event_destroy)(cuda::Event event);
  cuda::Status (*mem_get_info)(std::size_t* free, std::size_t* total);
  cuda::Status (*get_last_error)();
  const char* (*get_error_name)(cuda::Status status);
  const char* (*get_error_string)(cuda::Status status);

 private:
  std::string name_;
};

// The first of `libraries` that finds a GPU: a driver may be too old for the newest library.
// Raises: Error(backend) if none finds one.
std::shared_ptr<const CudaLibrary> first_with_gpu(
    const std::vector<std::shared_ptr<const CudaLibrary>>& libraries);

// The library of the newest version of CUDA that is installed and finds a GPU.
// Raises: Error(backend) if none is installed, or none finds a GPU.
std::shared_ptr<const CudaLibrary> open_cuda_library();

}  // namespace libfam
