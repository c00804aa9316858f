#include "engines/cuda/memory_pool.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "engines/device.h"

namespace libfam {
MemoryPool::MemoryPool(std::function<void*(std::size_t)> take, std::function<void(void*)> give_back)
    : take_(std::move(take)), give_back_(std::move(give_back)) {}

MemoryPool::~MemoryPool() {
  for (const auto& [address, size] : all_) give_back_(address);
}

void* MemoryPool::allocate(std::size_t nbytes) {
  const std::size_t size = aligned(nbytes);
  std::vector<void*>& free = free_[size];
  if (!free.empty()) {
    void* address = free.back();
    free.pop_back();
    return address;
  }
  return take(size);
}

void MemoryPool::release(void* address) noexcept {
  if (address == nullptr) return;
  // Its room was reserved when the block was taken, so that this cannot fail.
  free_[all_.at(address)].push_back(address);
}

void MemoryPool::trim() noexcept {
  for (auto& [size, addresses] : free_) {
    for (void* address : addresses) {
      all_.erase(address);
      give_back_(address);
    }
    addresses.clear();
  }
}

std::size_t MemoryPool::cached_bytes() const {
  std::size_t total = 0;
  for (const auto& [size, addresses] : free_) total += size * addresses.size();
  return total;
}

void* MemoryPool::take(std::size_t size) {
  void* address = nullptr;
  try {
    address = take_(size);
  } catch (const Error&) {
    if (cached_bytes() == 0) throw;
    trim();
    address = take_(size);
  }
  try {
    const auto [entry, is_new] = all_.emplace(address, size);
    if (!is_new) throw std::logic_error("the device gave the same memory twice");
    std::size_t same_size = 0;
    for (const auto& [other, its_size] : all_) same_size += its_size == size ? 1 : 0;
    free_[size].reserve(same_size);
  } catch (const std::bad_alloc&) {
    all_.erase(address);
    give_back_(address);
    throw;
  }
  return address;
}

}  // namespace libfam
