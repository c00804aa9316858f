// A stand-in for the CUDA runtime library, on the host's memory.
//
// The stream does nothing until somebody waits for it, or for an event on it: so that what is read
// too early or too late is seen. What the real library would not accept (a stream that waits for
// the legacy one, a copy that does not begin in pinned memory, memory that was freed) is refused.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engines/cuda/cuda_library.h"

namespace libfam {

// One at a time: the library's functions know no object.
class FakeCuda {
 public:
  FakeCuda();
  ~FakeCuda();
  FakeCuda(const FakeCuda&) = delete;
  FakeCuda& operator=(const FakeCuda&) = delete;

  std::shared_ptr<const CudaLibrary> library() const;
  // Its functions by name; null for a name in `missing`.
  static SymbolLookup symbols(const std::string& missing = "");

  // From now on `function` returns `status`, `times` times or for ever.
  void fail(const std::string& function, cuda::Status status, int times = -1);
  void fail_nothing() { failures_.clear(); }

  std::vector<std::string> calls;  // in order, by name
  std::size_t count(const std::string& function) const;
  // Streams, events, memory and pinned memory that were not given back.
  std::size_t alive() const;
  std::size_t waiting() const { return stream_.size(); }  // work that was not done yet

  int device_count = 1;
  std::size_t free_bytes = std::size_t{3} << 20;
  std::size_t total_bytes = std::size_t{8} << 30;
  std::string device_name = "NVIDIA Stub";

 private:
  friend struct FakeCudaCalls;

  cuda::Status begin(const char* function);
  bool owns(const std::map<void*, std::unique_ptr<std::byte[]>>& memory, const void* address,
            std::size_t nbytes) const;
  cuda::Status put_on_stream(cuda::Stream stream, std::function<void()> work);
  void run_until(std::size_t position);

  struct Failure {
    cuda::Status status;
    int times;
  };
  std::map<std::string, Failure> failures_;
  std::map<void*, std::unique_ptr<std::byte[]>> device_;
  std::map<void*, std::unique_ptr<std::byte[]>> pinned_;
  std::map<void*, std::size_t> sizes_;
  std::map<void*, std::size_t> events_;  // positions on the stream
  std::deque<std::function<void()>> stream_;
  std::size_t done_ = 0;  // work that the stream has passed
  std::size_t handles_ = 0;
  cuda::Stream handle_ = nullptr;
};

}  // namespace libfam
