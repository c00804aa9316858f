// Pinned memory on the way to the device.
//
// A copy from pageable memory may wait for the stream, or may read the source after the call
// returned, as the system likes. From pinned memory it does neither: the source is read here, piece
// by piece into one half, while the device reads the other.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "engines/cuda/cuda_library.h"

namespace libfam {

class PinnedStaging {
 public:
  // Large enough that the copies, and not their number, take the time.
  static constexpr std::size_t kHalfBytes = std::size_t{4} << 20;

  // `stream` must outlive the staging. Raises: Error(backend).
  PinnedStaging(std::shared_ptr<const CudaLibrary> library, cuda::Stream stream);
  // Waits until the device has read everything.
  ~PinnedStaging();
  PinnedStaging(const PinnedStaging&) = delete;
  PinnedStaging& operator=(const PinnedStaging&) = delete;

  // Writes to the device in the order of the stream. `source` may be reused on return.
  // Raises: Error(backend).
  void upload(void* target, const void* source, std::size_t nbytes);

 private:
  // Gives back what a constructor that failed would leave.
  struct Resources {
    explicit Resources(std::shared_ptr<const CudaLibrary> library);
    ~Resources();
    Resources(const Resources&) = delete;
    Resources& operator=(const Resources&) = delete;

    std::shared_ptr<const CudaLibrary> cuda;
    void* pinned = nullptr;
    // Passed by the stream when the device has read a half.
    std::array<cuda::Event, 2> was_read{};
  };

  void upload_piece(std::byte* target, const std::byte* source, std::size_t nbytes);
  void wait_for_half(std::size_t half);

  Resources resources_;
  cuda::Stream stream_;
  std::array<bool, 2> in_use_{};
  std::size_t next_ = 0;
};

}  // namespace libfam
