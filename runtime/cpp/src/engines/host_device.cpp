#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "engines/device.h"

namespace libfam {
namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20;
// More than any machine has; the sum of it and the alignment fits the type.
constexpr std::size_t kMostBytes = std::numeric_limits<std::size_t>::max() >> 17;

Error not_enough_memory(std::size_t nbytes) {
  const std::size_t mebibytes = nbytes / kMebibyte + (nbytes % kMebibyte != 0 ? 1 : 0);
  const auto free = free_host_memory_bytes();
  return {ErrorCode::out_of_memory,
          {.what = "the host has not enough memory left",
           .got = repr(std::to_string(mebibytes) + " MiB were asked for"),
           .expected = free ? "at most " + std::to_string(*free / kMebibyte) + " MiB" : "",
           .fix = "low_memory=True, native_attention='replay', fewer pictures_per_batch, or a "
                  "smaller size or tile"}};
}

class HostDevice final : public Device {
 public:
  bool is_host() const override { return true; }
  std::string name() const override { return "CPU"; }

  void* allocate(std::size_t nbytes) override {
    if (nbytes > kMostBytes) throw not_enough_memory(nbytes);
    const std::size_t units =
        std::max<std::size_t>(1, (nbytes + kDeviceAlignment - 1) / kDeviceAlignment);
    void* address = std::aligned_alloc(kDeviceAlignment, units * kDeviceAlignment);
    if (address == nullptr) throw not_enough_memory(nbytes);
    return address;
  }

  void free(void* address) noexcept override { std::free(address); }

  void copy_to_device(void* target, const void* source, std::size_t nbytes) override {
    copy(target, source, nbytes);
  }
  void copy_to_host(void* target, const void* source, std::size_t nbytes) override {
    copy(target, source, nbytes);
  }
  void fill_zero(void* address, std::size_t nbytes) override {
    if (nbytes != 0) std::memset(address, 0, nbytes);
  }
  void synchronize() override {}
  std::optional<std::size_t> free_memory_bytes() override { return free_host_memory_bytes(); }

 private:
  static void copy(void* target, const void* source, std::size_t nbytes) {
    if (nbytes != 0) std::memcpy(target, source, nbytes);
  }
};

}  // namespace

std::unique_ptr<Device> host_device() { return std::make_unique<HostDevice>(); }

}  // namespace libfam
