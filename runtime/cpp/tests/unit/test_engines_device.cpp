// The host's memory, and memory that frees itself.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engines/device.h"

namespace libfam {
namespace {

// Remembers what was given out.
class CountingDevice final : public Device {
 public:
  bool is_host() const override { return true; }
  std::string name() const override { return "counting"; }
  void* allocate(std::size_t nbytes) override {
    void* address = host_->allocate(nbytes);
    held_.insert(address);
    return address;
  }
  void free(void* address) noexcept override {
    if (held_.erase(address) != 1) ++wrongly_freed_;
    host_->free(address);
  }
  void copy_to_device(void*, const void*, std::size_t) override {}
  void copy_to_host(void*, const void*, std::size_t) override {}
  void fill_zero(void*, std::size_t) override {}
  void synchronize() override {}
  std::optional<std::size_t> free_memory_bytes() override { return std::nullopt; }

  std::size_t held() const { return held_.size(); }
  int wrongly_freed() const { return wrongly_freed_; }

 private:
  std::unique_ptr<Device> host_ = host_device();
  std::set<void*> held_;
  int wrongly_freed_ = 0;
};

bool is_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kDeviceAlignment == 0;
}

}  // namespace

TEST_CASE("the host's memory is aligned and can be written to its end") {
  const auto device = host_device();
  CHECK(device->is_host());
  CHECK(device->stream() == nullptr);
  for (const std::size_t nbytes : {0U, 1U, 255U, 256U, 257U, 100'000U}) {
    const DeviceMemory memory(*device, nbytes);
    CHECK(memory.nbytes() == nbytes);
    CHECK(is_aligned(memory.data()));
    std::vector<std::byte> ones(nbytes, std::byte{1});
    device->copy_to_device(memory.data(), ones.data(), nbytes);
    device->fill_zero(memory.data(), nbytes / 2);
    std::vector<std::byte> read(nbytes, std::byte{7});
    device->copy_to_host(read.data(), memory.data(), nbytes);
    std::fill_n(ones.begin(), nbytes / 2, std::byte{0});
    CHECK(read == ones);
  }
}

TEST_CASE("more memory than there is raises an error") {
  const auto device = host_device();
  constexpr auto kMost = std::numeric_limits<std::size_t>::max();
  for (const std::size_t nbytes : {kMost, kMost - 255, kMost / 2, kMost / 2 - 300, kMost >> 9}) {
    try {
      device->free(device->allocate(nbytes));
      FAIL("it was given");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::out_of_memory);
      CHECK(std::string(error.what()).starts_with("the host has not enough memory left | got '"));
    }
  }
}

TEST_CASE("device memory is freed once, whoever holds it in the end") {
  CountingDevice device;
  {
    DeviceMemory first(device, 10);
    void* const address = first.data();
    DeviceMemory second(std::move(first));
    CHECK(second.data() == address);
    DeviceMemory third(device, 20);
    CHECK(device.held() == 2);
    third = std::move(second);
    CHECK(device.held() == 1);
    CHECK(third.data() == address);
    CHECK(third.nbytes() == 10);
    third = DeviceMemory();
    CHECK(device.held() == 0);
    CHECK(third.data() == nullptr);
    std::vector<DeviceMemory> many;
    for (std::size_t i = 0; i < 20; ++i) many.emplace_back(device, i);
    CHECK(device.held() == 20);
  }
  CHECK(device.held() == 0);
  CHECK(device.wrongly_freed() == 0);
}

TEST_CASE("free memory of this machine") {
  const auto free = free_host_memory_bytes();
  if (free) CHECK(*free < (std::size_t{1} << 60));
  give_back_freed_memory();
}

}  // namespace libfam
