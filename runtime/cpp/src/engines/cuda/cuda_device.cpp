#include "engines/cuda/cuda_device.h"

#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace libfam {
namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20;
// cudaDeviceProp takes 1 KiB in CUDA 13; it has grown in every major version.
constexpr std::size_t kPropertiesBytes = 16384;
constexpr std::size_t kNameBytes = 256;  // its first field

Error no_such_gpu(const CudaLibrary& cuda, int index, cuda::Status status) {
  return {ErrorCode::backend,
          {.what = "GPU " + std::to_string(index) + " cannot be used",
           .got = repr(cuda.get_error_string(status)),
           .expected = "one of the devices that nvidia-smi lists",
           .fix = "choose another GPU"}};
}

}  // namespace

CudaDevice::CudaDevice(std::shared_ptr<const CudaLibrary> library, int index)
    : cuda_(std::move(library)),
      index_(index),
      memory_([this](std::size_t nbytes) { return take_memory(nbytes); },
              [this](void* address) { give_memory_back(address); }) {
  const cuda::Status status = cuda_->set_device(index);
  if (status != cuda::kSuccess) throw no_such_gpu(*cuda_, index, status);
  name_ = name_of_device();
  architecture_ = architecture_of_device();
  cuda_->check(cuda_->stream_create_with_flags(&stream_, cuda::kStreamNonBlocking),
               "make a stream");
}

CudaDevice::~CudaDevice() {
  // Every failure is let go: after an illegal address, all that CUDA does is to repeat it.
  cuda_->set_device(index_);
  cuda_->stream_synchronize(stream_);
  staging_.reset();
  cuda_->stream_destroy(stream_);
  stream_ = nullptr;
}

void CudaDevice::activate() { cuda_->check(cuda_->set_device(index_), "be used"); }

void CudaDevice::copy_to_device(void* target, const void* source, std::size_t nbytes) {
  if (nbytes == 0) return;
  if (!staging_) staging_ = std::make_unique<PinnedStaging>(cuda_, stream_);
  staging_->upload(target, source, nbytes);
}

void CudaDevice::copy_to_host(void* target, const void* source, std::size_t nbytes) {
  // The driver stages this itself, and the caller waits in any case.
  if (nbytes != 0) {
    cuda_->check(cuda_->memcpy_async(target, source, nbytes, cuda::kMemcpyDeviceToHost, stream_),
                 "copy");
  }
  synchronize();
}

void CudaDevice::fill_zero(void* address, std::size_t nbytes) {
  if (nbytes == 0) return;
  cuda_->check(cuda_->memset_async(address, 0, nbytes, stream_), "fill memory");
}

void CudaDevice::synchronize() {
  cuda_->check(cuda_->stream_synchronize(stream_), "finish its work");
}

std::optional<std::size_t> CudaDevice::free_memory_bytes() {
  return memory_bytes().free + memory_.cached_bytes();
}

std::optional<std::size_t> CudaDevice::total_memory_bytes() { return memory_bytes().total; }

CudaDevice::MemoryBytes CudaDevice::memory_bytes() const {
  MemoryBytes bytes;
  cuda_->check(cuda_->mem_get_info(&bytes.free, &bytes.total), "tell its memory");
  return bytes;
}

std::string CudaDevice::name_of_device() const {
  alignas(std::max_align_t) std::array<char, kPropertiesBytes> properties{};
  cuda_->check(cuda_->get_device_properties(properties.data(), index_), "be described");
  const std::string_view field(properties.data(), kNameBytes);
  // Bytes that are no UTF-8 become U+FFFD: the name goes into settings, which are JSON.
  return utf8_from(code_points(field.substr(0, field.find('\0'))));
}

std::string CudaDevice::architecture_of_device() const {
  int major = 0;
  int minor = 0;
  cuda_->check(cuda_->device_get_attribute(&major, cuda::kAttributeComputeCapabilityMajor, index_),
               "be described");
  cuda_->check(cuda_->device_get_attribute(&minor, cuda::kAttributeComputeCapabilityMinor, index_),
               "be described");
  return "sm" + std::to_string(major) + std::to_string(minor);
}

void* CudaDevice::take_memory(std::size_t nbytes) {
  void* address = nullptr;
  const cuda::Status status = cuda_->malloc(&address, nbytes);
  if (status == cuda::kErrorMemoryAllocation) {
    cuda_->get_last_error();  // it would be reported again by a later call
    const auto [free, total] = memory_bytes();
    const std::size_t asked = nbytes / kMebibyte + (nbytes % kMebibyte != 0 ? 1 : 0);
    throw Error(ErrorCode::out_of_memory,
                {.what = name_ + " has not enough memory left",
                 .got = repr(std::to_string(asked) + " MiB were asked for"),
                 .expected = "at most " + std::to_string(free / kMebibyte) + " MiB, of " +
                             std::to_string(total / kMebibyte),
                 .fix = "low_memory=True, native_attention='replay', fewer pictures_per_batch, a "
                        "smaller size or tile; or end other programs that use the GPU"});
  }
  cuda_->check(status, "allocate memory");
  return address;
}

void CudaDevice::give_memory_back(void* address) noexcept {
  // What is on the stream may still use it. A failure is told by whoever waits next.
  if (stream_ != nullptr) cuda_->stream_synchronize(stream_);
  cuda_->free(address);
}

std::unique_ptr<CudaDevice> open_cuda_device(int index) {
  return std::make_unique<CudaDevice>(open_cuda_library(), index);
}

std::unique_ptr<Device> cuda_device(int index) { return open_cuda_device(index); }

}  // namespace libfam
