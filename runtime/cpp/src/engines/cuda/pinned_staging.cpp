#include "engines/cuda/pinned_staging.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace libfam {

PinnedStaging::Resources::Resources(std::shared_ptr<const CudaLibrary> library)
    : cuda(std::move(library)) {}

PinnedStaging::Resources::~Resources() {
  for (cuda::Event event : was_read) {
    if (event != nullptr) cuda->event_destroy(event);
  }
  if (pinned != nullptr) cuda->free_host(pinned);
}

PinnedStaging::PinnedStaging(std::shared_ptr<const CudaLibrary> library, cuda::Stream stream)
    : resources_(std::move(library)), stream_(stream) {
  const CudaLibrary& cuda = *resources_.cuda;
  cuda.check(cuda.malloc_host(&resources_.pinned, 2 * kHalfBytes), "take pinned memory");
  for (cuda::Event& event : resources_.was_read) {
    cuda.check(cuda.event_create_with_flags(&event, cuda::kEventDisableTiming), "make an event");
  }
}

PinnedStaging::~PinnedStaging() {
  const CudaLibrary& cuda = *resources_.cuda;
  for (std::size_t half = 0; half < 2; ++half) {
    if (in_use_[half]) cuda.event_synchronize(resources_.was_read[half]);
  }
}

void PinnedStaging::upload(void* target, const void* source, std::size_t nbytes) {
  auto* to = static_cast<std::byte*>(target);
  const auto* from = static_cast<const std::byte*>(source);
  for (std::size_t start = 0; start < nbytes; start += kHalfBytes) {
    upload_piece(to + start, from + start, std::min(kHalfBytes, nbytes - start));
  }
}

void PinnedStaging::upload_piece(std::byte* target, const std::byte* source, std::size_t nbytes) {
  const CudaLibrary& cuda = *resources_.cuda;
  const std::size_t half = next_;
  wait_for_half(half);
  next_ = 1 - half;
  std::byte* pinned = static_cast<std::byte*>(resources_.pinned) + half * kHalfBytes;
  std::memcpy(pinned, source, nbytes);
  cuda.check(cuda.memcpy_async(target, pinned, nbytes, cuda::kMemcpyHostToDevice, stream_), "copy");
  cuda.check(cuda.event_record(resources_.was_read[half], stream_), "record an event");
  in_use_[half] = true;
}

void PinnedStaging::wait_for_half(std::size_t half) {
  if (!in_use_[half]) return;
  in_use_[half] = false;
  const CudaLibrary& cuda = *resources_.cuda;
  cuda.check(cuda.event_synchronize(resources_.was_read[half]), "finish its work");
}

}  // namespace libfam
