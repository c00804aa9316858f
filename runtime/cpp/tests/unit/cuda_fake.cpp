#include "unit/cuda_fake.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace libfam {
namespace {

constexpr cuda::Status kErrorInvalidValue = 1;
constexpr cuda::Status kErrorInvalidDevice = 101;

FakeCuda* current = nullptr;

}  // namespace

// The library's functions, which work on the current object.
struct FakeCudaCalls {
  static FakeCuda& fake() { return *current; }

  static cuda::Status get_device_count(int* count) {
    *count = fake().device_count;
    return fake().begin("cudaGetDeviceCount");
  }
  static cuda::Status set_device(int device) {
    const cuda::Status status = fake().begin("cudaSetDevice");
    if (status != cuda::kSuccess) return status;
    return device >= 0 && device < fake().device_count ? cuda::kSuccess : kErrorInvalidDevice;
  }
  static cuda::Status get_device_properties(void* properties, int) {
    const std::string& name = fake().device_name;
    std::memset(properties, 0x7f, 1008);  // what follows the name is not asked for
    std::memset(properties, 0, 256);
    std::memcpy(properties, name.data(), std::min<std::size_t>(name.size(), 256));
    return fake().begin("cudaGetDeviceProperties");
  }
  static cuda::Status device_get_attribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return fake().begin("cudaDeviceGetAttribute");
  }
  static cuda::Status stream_create(cuda::Stream* stream, unsigned flags) {
    const cuda::Status status = fake().begin("cudaStreamCreateWithFlags");
    if (status != cuda::kSuccess) return status;
    if (flags != 1 || fake().handle_ != nullptr) return kErrorInvalidValue;
    *stream = fake().handle_ = reinterpret_cast<void*>(++fake().handles_);
    return cuda::kSuccess;
  }
  static cuda::Status stream_destroy(cuda::Stream stream) {
    const cuda::Status status = fake().begin("cudaStreamDestroy");
    if (status != cuda::kSuccess) return status;
    if (stream == nullptr || stream != fake().handle_) return kErrorInvalidValue;
    fake().handle_ = nullptr;
    return cuda::kSuccess;
  }
  static cuda::Status stream_synchronize(cuda::Stream stream) {
    const cuda::Status status = fake().begin("cudaStreamSynchronize");
    if (status != cuda::kSuccess) return status;
    if (stream == nullptr || stream != fake().handle_) return kErrorInvalidValue;
    fake().run_until(fake().done_ + fake().stream_.size());
    return cuda::kSuccess;
  }
  static cuda::Status take(const char* name, std::map<void*, std::unique_ptr<std::byte[]>>& memory,
                           void** address, std::size_t nbytes) {
    const cuda::Status status = fake().begin(name);
    if (status != cuda::kSuccess) return status;
    auto storage = std::make_unique<std::byte[]>(nbytes);
    *address = storage.get();
    fake().sizes_[*address] = nbytes;
    memory[*address] = std::move(storage);
    return cuda::kSuccess;
  }
  static cuda::Status give_back(const char* name,
                                std::map<void*, std::unique_ptr<std::byte[]>>& memory,
                                void* address) {
    const cuda::Status status = fake().begin(name);
    if (status != cuda::kSuccess) return status;
    return memory.erase(address) == 1 ? cuda::kSuccess : kErrorInvalidValue;
  }
  static cuda::Status malloc(void** address, std::size_t nbytes) {
    return take("cudaMalloc", fake().device_, address, nbytes);
  }
  static cuda::Status free(void* address) { return give_back("cudaFree", fake().device_, address); }
  static cuda::Status malloc_host(void** address, std::size_t nbytes) {
    return take("cudaMallocHost", fake().pinned_, address, nbytes);
  }
  static cuda::Status free_host(void* address) {
    return give_back("cudaFreeHost", fake().pinned_, address);
  }
  static cuda::Status memcpy_async(void* target, const void* source, std::size_t nbytes, int kind,
                                   cuda::Stream stream) {
    const cuda::Status status = fake().begin("cudaMemcpyAsync");
    if (status != cuda::kSuccess) return status;
    const bool is_upload = kind == 1 && fake().owns(fake().device_, target, nbytes) &&
                           fake().owns(fake().pinned_, source, nbytes);
    const bool is_download = kind == 2 && fake().owns(fake().device_, source, nbytes);
    if (!is_upload && !is_download) return kErrorInvalidValue;
    return fake().put_on_stream(stream, [=] { std::memcpy(target, source, nbytes); });
  }
  static cuda::Status memset_async(void* address, int value, std::size_t nbytes,
                                   cuda::Stream stream) {
    const cuda::Status status = fake().begin("cudaMemsetAsync");
    if (status != cuda::kSuccess) return status;
    if (!fake().owns(fake().device_, address, nbytes)) return kErrorInvalidValue;
    return fake().put_on_stream(stream, [=] { std::memset(address, value, nbytes); });
  }
  static cuda::Status event_create(cuda::Event* event, unsigned) {
    const cuda::Status status = fake().begin("cudaEventCreateWithFlags");
    if (status != cuda::kSuccess) return status;
    *event = reinterpret_cast<void*>(++fake().handles_);
    fake().events_[*event] = 0;
    return cuda::kSuccess;
  }
  static cuda::Status event_record(cuda::Event event, cuda::Stream stream) {
    const cuda::Status status = fake().begin("cudaEventRecord");
    if (status != cuda::kSuccess) return status;
    if (!fake().events_.contains(event) || stream != fake().handle_) return kErrorInvalidValue;
    fake().events_[event] = fake().done_ + fake().stream_.size();
    return cuda::kSuccess;
  }
  static cuda::Status event_synchronize(cuda::Event event) {
    const cuda::Status status = fake().begin("cudaEventSynchronize");
    if (status != cuda::kSuccess) return status;
    if (!fake().events_.contains(event)) return kErrorInvalidValue;
    fake().run_until(fake().events_[event]);
    return cuda::kSuccess;
  }
  static cuda::Status event_destroy(cuda::Event event) {
    const cuda::Status status = fake().begin("cudaEventDestroy");
    if (status != cuda::kSuccess) return status;
    return fake().events_.erase(event) == 1 ? cuda::kSuccess : kErrorInvalidValue;
  }
  static cuda::Status mem_get_info(std::size_t* free, std::size_t* total) {
    *free = fake().free_bytes;
    *total = fake().total_bytes;
    return fake().begin("cudaMemGetInfo");
  }
  static cuda::Status get_last_error() { return fake().begin("cudaGetLastError"); }
  static const char* get_error_name(cuda::Status status) {
    switch (status) {
      case 0:
        return "cudaSuccess";
      case 2:
        return "cudaErrorMemoryAllocation";
      case 100:
        return "cudaErrorNoDevice";
      case 101:
        return "cudaErrorInvalidDevice";
      case 700:
        return "cudaErrorIllegalAddress";
      default:
        return "cudaErrorInvalidValue";
    }
  }
  static const char* get_error_string(cuda::Status status) {
    switch (status) {
      case 0:
        return "no error";
      case 2:
        return "out of memory";
      case 100:
        return "no CUDA-capable device is detected";
      case 101:
        return "invalid device ordinal";
      case 700:
        return "an illegal memory access was encountered";
      default:
        return "invalid argument";
    }
  }
};

FakeCuda::FakeCuda() {
  if (current != nullptr) throw std::logic_error("two fakes at once");
  current = this;
}

FakeCuda::~FakeCuda() { current = nullptr; }

std::shared_ptr<const CudaLibrary> FakeCuda::library() const {
  return std::make_shared<const CudaLibrary>("libcudart.so.fake", symbols());
}

SymbolLookup FakeCuda::symbols(const std::string& missing) {
  return [missing](const char* name) -> void* {
    using Calls = FakeCudaCalls;
    const auto address = [](auto* function) { return reinterpret_cast<void*>(function); };
    const std::map<std::string, void*> functions = {
        {"cudaGetDeviceCount", address(&Calls::get_device_count)},
        {"cudaSetDevice", address(&Calls::set_device)},
        {"cudaGetDeviceProperties", address(&Calls::get_device_properties)},
        {"cudaDeviceGetAttribute", address(&Calls::device_get_attribute)},
        {"cudaStreamCreateWithFlags", address(&Calls::stream_create)},
        {"cudaStreamDestroy", address(&Calls::stream_destroy)},
        {"cudaStreamSynchronize", address(&Calls::stream_synchronize)},
        {"cudaMalloc", address(&Calls::malloc)},
        {"cudaFree", address(&Calls::free)},
        {"cudaMallocHost", address(&Calls::malloc_host)},
        {"cudaFreeHost", address(&Calls::free_host)},
        {"cudaMemcpyAsync", address(&Calls::memcpy_async)},
        {"cudaMemsetAsync", address(&Calls::memset_async)},
        {"cudaEventCreateWithFlags", address(&Calls::event_create)},
        {"cudaEventRecord", address(&Calls::event_record)},
        {"cudaEventSynchronize", address(&Calls::event_synchronize)},
        {"cudaEventDestroy", address(&Calls::event_destroy)},
        {"cudaMemGetInfo", address(&Calls::mem_get_info)},
        {"cudaGetLastError", address(&Calls::get_last_error)},
        {"cudaGetErrorName", address(&Calls::get_error_name)},
        {"cudaGetErrorString", address(&Calls::get_error_string)}};
    return name == missing ? nullptr : functions.at(name);
  };
}

void FakeCuda::fail(const std::string& function, cuda::Status status, int times) {
  failures_[function] = {status, times};
}

std::size_t FakeCuda::count(const std::string& function) const {
  return static_cast<std::size_t>(std::ranges::count(calls, function));
}

std::size_t FakeCuda::alive() const {
  return device_.size() + pinned_.size() + events_.size() + (handle_ == nullptr ? 0 : 1);
}

cuda::Status FakeCuda::begin(const char* function) {
  calls.emplace_back(function);
  const auto failure = failures_.find(function);
  if (failure == failures_.end() || failure->second.times == 0) return cuda::kSuccess;
  if (failure->second.times > 0) --failure->second.times;
  return failure->second.status;
}

bool FakeCuda::owns(const std::map<void*, std::unique_ptr<std::byte[]>>& memory,
                    const void* address, std::size_t nbytes) const {
  return std::ranges::any_of(memory, [&](const auto& entry) {
    const auto* begin = static_cast<const std::byte*>(entry.first);
    const auto* wanted = static_cast<const std::byte*>(address);
    return begin <= wanted && wanted + nbytes <= begin + sizes_.at(entry.first);
  });
}

cuda::Status FakeCuda::put_on_stream(cuda::Stream stream, std::function<void()> work) {
  if (stream == nullptr || stream != handle_) return kErrorInvalidValue;
  stream_.push_back(std::move(work));
  return cuda::kSuccess;
}

void FakeCuda::run_until(std::size_t position) {
  for (; done_ < position && !stream_.empty(); ++done_) {
    stream_.front()();
    stream_.pop_front();
  }
}

}  // namespace libfam
