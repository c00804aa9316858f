#include "engines/cuda/cuda_library.h"

#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "engines/cuda/shared_library.h"

namespace libfam {
namespace {

#ifdef _WIN32
constexpr std::array kNames = {"cudart64_13.dll", "cudart64_12.dll"};
#else
constexpr std::array kNames = {"libcudart.so.13", "libcudart.so.12"};
#endif

constexpr const char* kInstall =
    "install the driver and the CUDA runtime of CUDA 12 or newer, where the system's loader finds "
    "it (on Linux, LD_LIBRARY_PATH)";

Error not_loaded(const std::string& reasons, const std::string& expected) {
  return {ErrorCode::backend,
          {.what = "a GPU backend needs the CUDA runtime library",
           .got = repr(reasons),
           .expected = expected,
           .fix = kInstall}};
}

Error no_gpu(const CudaLibrary& library, int count, cuda::Status status) {
  return {ErrorCode::backend,
          {.what = "there is no GPU that CUDA can use",
           .got = repr(std::to_string(count) + " devices: " + library.text(status)),
           .expected = "an NVIDIA GPU and its driver (nvidia-smi shows both)",
           .fix = "install or update the driver; with a driver for CUDA 12, install the CUDA "
                  "runtime 12; or use the onnxruntime backend on the CPU"}};
}

}  // namespace

CudaLibrary::CudaLibrary(std::string name, const SymbolLookup& symbol) : name_(std::move(name)) {
  const auto find = [&]<typename Function>(const char* wanted, Function*& function) {
    // POSIX and Windows both promise that an object pointer can hold a function's address.
    function = reinterpret_cast<Function*>(symbol(wanted));
    if (function == nullptr) throw not_loaded(name_ + " has no " + wanted, name_);
  };
  find("cudaGetDeviceCount", get_device_count);
  find("cudaSetDevice", set_device);
  find("cudaGetDeviceProperties", get_device_properties);
  find("cudaDeviceGetAttribute", device_get_attribute);
  find("cudaStreamCreateWithFlags", stream_create_with_flags);
  find("cudaStreamDestroy", stream_destroy);
  find("cudaStreamSynchronize", stream_synchronize);
  find("cudaMalloc", malloc);
  find("cudaFree", free);
  find("cudaMallocHost", malloc_host);
  find("cudaFreeHost", free_host);
  find("cudaMemcpyAsync", memcpy_async);
  find("cudaMemsetAsync", memset_async);
  find("cudaEventCreateWithFlags", event_create_with_flags);
  find("cudaEventRecord", event_record);
  find("cudaEventSynchronize", event_synchronize);
  find("cudaEventDestroy", event_destroy);
  find("cudaMemGetInfo", mem_get_info);
  find("cudaGetLastError", get_last_error);
  find("cudaGetErrorName", get_error_name);
  find("cudaGetErrorString", get_error_string);
}

std::string CudaLibrary::text(cuda::Status status) const {
  return std::string(get_error_name(status)) + ": " + get_error_string(status);
}

void CudaLibrary::check(cuda::Status status, const char* what) const {
  if (status == cuda::kSuccess) return;
  throw Error(ErrorCode::backend,
              {.what = std::string("the GPU could not ") + what,
               .got = repr(text(status)),
               .expected = "cudaSuccess",
               .fix = "start a new process: CUDA may repeat an error until then; if it stays, try "
                      "a smaller size, and see nvidia-smi"});
}

std::shared_ptr<const CudaLibrary> first_with_gpu(
    const std::vector<std::shared_ptr<const CudaLibrary>>& libraries) {
  std::optional<Error> refusal;
  for (const auto& library : libraries) {
    int count = 0;
    const cuda::Status status = library->get_device_count(&count);
    if (status == cuda::kSuccess && count > 0) return library;
    if (status != cuda::kSuccess) count = 0;  // what it left there says nothing
    if (!refusal) refusal = no_gpu(*library, count, status);
  }
  throw refusal.value();
}

std::shared_ptr<const CudaLibrary> open_cuda_library() {
  std::vector<std::shared_ptr<const CudaLibrary>> libraries;
  std::vector<std::string> reasons;
  for (const char* name : kNames) {
    std::string reason;
    const std::optional<SharedLibrary> loaded = SharedLibrary::open(name, reason);
    if (loaded) {
      libraries.push_back(std::make_shared<const CudaLibrary>(
          name, [&loaded](const char* wanted) { return loaded->symbol(wanted); }));
    } else {
      reasons.push_back(reason);
    }
  }
  if (libraries.empty()) {
    throw not_loaded(joined(reasons, "; "), joined({kNames.begin(), kNames.end()}, " or "));
  }
  return first_with_gpu(libraries);
}

}  // namespace libfam
