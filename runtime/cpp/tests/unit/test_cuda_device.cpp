// The CUDA device on a stand-in for the library.
#include <doctest/doctest.h>

#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "base/error.h"
#include "engines/cuda/cuda_device.h"
#include "unit/cuda_fake.h"
#include "unit/error_of.h"

namespace libfam {
namespace {

using Bytes = std::vector<unsigned char>;

constexpr cuda::Status kErrorIllegalAddress = 700;
constexpr cuda::Status kErrorNoDevice = 100;
constexpr std::size_t kHalf = PinnedStaging::kHalfBytes;

Bytes random_bytes(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  Bytes bytes(count);
  for (auto& byte : bytes) byte = static_cast<unsigned char>(generator());
  return bytes;
}

TEST_CASE("a CUDA device is described") {
  FakeCuda cuda;
  cuda.device_name = "NVIDIA L4";
  CudaDevice device(cuda.library(), 0);
  CHECK_FALSE(device.is_host());
  CHECK(device.name() == "NVIDIA L4");
  CHECK(device.architecture() == "sm89");
  CHECK(device.stream() != nullptr);
  CHECK(device.free_memory_bytes() == cuda.free_bytes);
  CHECK(device.total_memory_bytes() == cuda.total_bytes);
}

TEST_CASE("a CUDA device's name may fill its field, and need not be text") {
  FakeCuda cuda;
  cuda.device_name = std::string(256, 'x');
  CHECK(CudaDevice(cuda.library(), 0).name() == std::string(256, 'x'));
  cuda.device_name = "GPU \xff!";
  CHECK(CudaDevice(cuda.library(), 0).name() == "GPU \xef\xbf\xbd!");
}

TEST_CASE("uploads go through pinned memory, and their source may be reused on return") {
  FakeCuda cuda;
  CudaDevice device(cuda.library(), 0);
  // Larger than both halves, so that they are used in turn.
  const Bytes first = random_bytes(2 * kHalf + 5, 1);
  const Bytes second = random_bytes(2 * kHalf + 5, 2);
  auto* address = static_cast<unsigned char*>(device.allocate(2 * first.size()));
  for (const Bytes* content : {&first, &second}) {
    Bytes source = *content;
    device.copy_to_device(address + (content == &first ? 0 : first.size()), source.data(),
                          source.size());
    std::ranges::fill(source, static_cast<unsigned char>(0));
  }
  // Two pieces may wait; each further one waits until its half was read.
  CHECK(cuda.count("cudaEventSynchronize") == 4);
  CHECK(cuda.waiting() == 2);
  CHECK(cuda.count("cudaStreamSynchronize") == 0);
  CHECK(cuda.count("cudaMallocHost") == 1);
  Bytes back(2 * first.size());
  device.copy_to_host(back.data(), address, back.size());
  CHECK(cuda.calls.back() == "cudaStreamSynchronize");
  CHECK(Bytes(back.begin(), back.begin() + static_cast<long>(first.size())) == first);
  CHECK(Bytes(back.begin() + static_cast<long>(first.size()), back.end()) == second);
  device.free(address);
}

TEST_CASE("whatever the order of uploads, zeros and downloads, it is the order of the stream") {
  FakeCuda cuda;
  CudaDevice device(cuda.library(), 0);
  constexpr std::size_t kSize = kHalf + 1000;
  auto* address = static_cast<unsigned char*>(device.allocate(kSize));
  device.fill_zero(address, kSize);
  Bytes expected(kSize, 0);
  std::mt19937 generator(7);
  for (unsigned round = 0; round < 200; ++round) {
    const std::size_t begin = generator() % kSize;
    const std::size_t limit = generator() % 8 == 0 ? kSize : 4096;
    const std::size_t count = generator() % std::min(kSize - begin + 1, limit + 1);
    if (generator() % 3 == 0) {
      device.fill_zero(address + begin, count);
      std::memset(expected.data() + begin, 0, count);
    } else {
      Bytes source = random_bytes(count, round);
      device.copy_to_device(address + begin, source.data(), count);
      std::ranges::copy(source, expected.begin() + static_cast<long>(begin));
      std::ranges::fill(source, static_cast<unsigned char>(0xee));
    }
    if (generator() % 16 != 0) continue;
    Bytes back(kSize);
    device.copy_to_host(back.data(), address, kSize);
    REQUIRE(back == expected);
  }
}

TEST_CASE("nothing can be copied") {
  FakeCuda cuda;
  CudaDevice device(cuda.library(), 0);
  device.copy_to_device(nullptr, nullptr, 0);
  device.fill_zero(nullptr, 0);
  device.copy_to_host(nullptr, nullptr, 0);
  CHECK(cuda.count("cudaMemcpyAsync") == 0);
}

TEST_CASE("memory that was freed is used again, and given up when it is asked for") {
  FakeCuda cuda;
  CudaDevice device(cuda.library(), 0);
  void* first = device.allocate(1000);
  void* second = device.allocate(1000);
  CHECK(first != second);
  device.free(first);
  CHECK(cuda.count("cudaFree") == 0);
  CHECK(device.free_memory_bytes() == cuda.free_bytes + 1024);
  CHECK(device.allocate(1024) == first);  // of the same size when rounded up
  CHECK(device.free_memory_bytes() == cuda.free_bytes);
  device.free(first);
  device.free(second);
  device.free(nullptr);
  CHECK(device.allocate(1025) != first);
  device.trim();
  CHECK(cuda.count("cudaFree") == 2);
  CHECK(device.free_memory_bytes() == cuda.free_bytes);
  CHECK(device.allocate(0) != nullptr);
}

TEST_CASE("memory goes back to CUDA only when the stream has passed") {
  FakeCuda cuda;
  CudaDevice device(cuda.library(), 0);
  const Bytes content = random_bytes(64, 3);
  void* address = device.allocate(64);
  device.copy_to_device(address, content.data(), content.size());
  device.free(address);
  CHECK(cuda.waiting() == 1);
  device.trim();
  CHECK(cuda.waiting() == 0);
}

TEST_CASE("without memory, what nobody uses is given back before it is said") {
  FakeCuda cuda;
  CudaDevice device(cuda.library(), 0);
  device.free(device.allocate(256));
  cuda.fail("cudaMalloc", cuda::kErrorMemoryAllocation, 1);
  CHECK(device.allocate(512) != nullptr);
  CHECK(cuda.count("cudaFree") == 1);
  cuda.fail("cudaMalloc", cuda::kErrorMemoryAllocation);
  const auto [code, text] = error_of([&] { device.allocate((std::size_t{5} << 20) - 1); });
  CHECK(code == ErrorCode::out_of_memory);
  CHECK(text ==
        "NVIDIA Stub has not enough memory left | got '5 MiB were asked for' | expected at most 3 "
        "MiB, of 8192 | low_memory=True, native_attention='replay', fewer pictures_per_batch, a "
        "smaller size or tile; or end other programs that use the GPU");
  CHECK(cuda.count("cudaGetLastError") == 2);  // a later call would report it again
}

// A call of a device for every function that can fail in one.
const std::map<std::string, std::pair<std::string, std::function<void(CudaDevice&)>>>& fallible() {
  static const std::map<std::string, std::pair<std::string, std::function<void(CudaDevice&)>>>
      calls = {
          {"cudaMalloc", {"allocate memory", [](CudaDevice& d) { d.allocate(8); }}},
          {"cudaMallocHost",
           {"take pinned memory",
            [](CudaDevice& d) { d.copy_to_device(d.allocate(8), "1234567", 8); }}},
          {"cudaEventCreateWithFlags",
           {"make an event", [](CudaDevice& d) { d.copy_to_device(d.allocate(8), "1234567", 8); }}},
          {"cudaEventRecord",
           {"record an event",
            [](CudaDevice& d) { d.copy_to_device(d.allocate(8), "1234567", 8); }}},
          {"cudaEventSynchronize",
           {"finish its work",
            [](CudaDevice& d) {
              void* address = d.allocate(8);
              for (int i = 0; i < 3; ++i) d.copy_to_device(address, "1234567", 8);
            }}},
          {"cudaMemcpyAsync",
           {"copy",
            [](CudaDevice& d) {
              int number = 0;
              d.copy_to_host(&number, d.allocate(8), 4);
            }}},
          {"cudaMemsetAsync",
           {"fill memory", [](CudaDevice& d) { d.fill_zero(d.allocate(8), 8); }}},
          {"cudaStreamSynchronize", {"finish its work", [](CudaDevice& d) { d.synchronize(); }}},
          {"cudaMemGetInfo", {"tell its memory", [](CudaDevice& d) { d.free_memory_bytes(); }}},
          {"cudaSetDevice", {"be used", [](CudaDevice& d) { d.activate(); }}}};
  return calls;
}

TEST_CASE("every failure of CUDA is a message, and leaves nothing behind") {
  for (const auto& [function, call] : fallible()) {
    CAPTURE(function);
    FakeCuda cuda;
    {
      CudaDevice device(cuda.library(), 0);
      cuda.fail(function, kErrorIllegalAddress);
      const auto [code, text] = error_of([&] { call.second(device); });
      CHECK(code == ErrorCode::backend);
      CHECK(text == "the GPU could not " + call.first +
                        " | got 'cudaErrorIllegalAddress: an illegal memory access was "
                        "encountered' | expected cudaSuccess | start a new process: CUDA may "
                        "repeat an error until then; if it stays, try a smaller size, and see "
                        "nvidia-smi");
      cuda.fail_nothing();
    }
    CHECK(cuda.alive() == 0);
  }
}

TEST_CASE("closing goes on where CUDA repeats an error") {
  FakeCuda cuda;
  {
    CudaDevice device(cuda.library(), 0);
    void* held = device.allocate(8);
    device.copy_to_device(held, "1234567", 8);
    for (const auto& [function, call] : fallible()) cuda.fail(function, kErrorIllegalAddress);
    for (const char* function :
         {"cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy"}) {
      cuda.fail(function, kErrorIllegalAddress);
    }
    device.free(held);
    device.trim();
  }
  CHECK(cuda.count("cudaFree") == 1);
  CHECK(cuda.count("cudaFreeHost") == 1);
  CHECK(cuda.count("cudaEventDestroy") == 2);
  CHECK(cuda.count("cudaStreamDestroy") == 1);
}

TEST_CASE("closing waits for what the device still reads") {
  FakeCuda cuda;
  {
    CudaDevice device(cuda.library(), 0);
    device.copy_to_device(device.allocate(8), "1234567", 8);
    CHECK(cuda.waiting() == 1);
  }
  CHECK(cuda.waiting() == 0);
  CHECK(cuda.alive() == 0);
}

TEST_CASE("a device that cannot be described leaves nothing behind") {
  for (const char* function : {"cudaSetDevice", "cudaGetDeviceProperties", "cudaDeviceGetAttribute",
                               "cudaStreamCreateWithFlags"}) {
    CAPTURE(function);
    FakeCuda cuda;
    cuda.fail(function, kErrorIllegalAddress);
    const auto [code, text] = error_of([&] { const CudaDevice device(cuda.library(), 0); });
    CHECK(code == ErrorCode::backend);
    CHECK(cuda.alive() == 0);
  }
}

TEST_CASE("a GPU that is not there is refused by its number") {
  FakeCuda cuda;
  for (const int index : {-1, 1}) {
    const auto [code, text] = error_of([&] { const CudaDevice device(cuda.library(), index); });
    CHECK(code == ErrorCode::backend);
    CHECK(text == "GPU " + std::to_string(index) +
                      " cannot be used | got 'invalid device ordinal' | expected one of the "
                      "devices that nvidia-smi lists | choose another GPU");
  }
}

TEST_CASE("no driver or no GPU is a message, and another version of the library is tried") {
  FakeCuda cuda;
  CHECK(first_with_gpu({cuda.library()}) != nullptr);
  cuda.fail("cudaGetDeviceCount", kErrorNoDevice, 1);
  CHECK(first_with_gpu({cuda.library(), cuda.library()}) != nullptr);
  cuda.fail("cudaGetDeviceCount", kErrorNoDevice);
  const auto [code, text] = error_of([&] { first_with_gpu({cuda.library(), cuda.library()}); });
  CHECK(code == ErrorCode::backend);
  CHECK(
      text.starts_with("there is no GPU that CUDA can use | got '0 devices: cudaErrorNoDevice: "
                       "no CUDA-capable device is detected' | expected an NVIDIA GPU and its "
                       "driver (nvidia-smi shows both) | install or update the driver; "));
  cuda.fail_nothing();
  cuda.device_count = 0;
  CHECK(error_of([&] {
          first_with_gpu({cuda.library()});
        }).second.find("got '0 devices: cudaSuccess: no error'") != std::string::npos);
}

TEST_CASE("a library without one of the functions is refused") {
  FakeCuda cuda;
  const auto [code, text] = error_of(
      [&] { const CudaLibrary library("libcudart.so.0", FakeCuda::symbols("cudaMemsetAsync")); });
  CHECK(code == ErrorCode::backend);
  CHECK(
      text.starts_with("a GPU backend needs the CUDA runtime library | got 'libcudart.so.0 has "
                       "no cudaMemsetAsync' | expected libcudart.so.0 | "));
}

TEST_CASE("the installed CUDA library gives a device, or says why not") {
  try {
    const std::unique_ptr<Device> device = cuda_device(0);
    CHECK_FALSE(device->name().empty());
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::backend);
    const std::string text = error.what();
    const bool is_known = text.starts_with("there is no GPU that CUDA can use") ||
                          text.starts_with("a GPU backend needs the CUDA runtime library");
    CHECK_MESSAGE(is_known, text);
    MESSAGE(text);
  }
}

}  // namespace
}  // namespace libfam
