// Device memory that was given back, kept for the next who needs as much.
//
// Taking memory from CUDA and giving it back waits for the device's work; calls come with the same
// sizes again and again. One stream orders all work, so a block may be used again at once.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <vector>

namespace libfam {

// Not for use by several threads at once.
class MemoryPool {
 public:
  // `take` raises Error(out_of_memory) where there is not so much left; `give_back` is not asked
  // for null.
  MemoryPool(std::function<void*(std::size_t)> take, std::function<void(void*)> give_back);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // A block of at least `nbytes`; its content is left over from whoever had it. Before it gives up,
  // it gives back what nobody uses, and asks once more.
  void* allocate(std::size_t nbytes);
  // Keeps a block for the next. Null is allowed.
  void release(void* address) noexcept;
  // Gives blocks that nobody uses back to the device.
  void trim() noexcept;
  std::size_t cached_bytes() const;  // of blocks that nobody uses

 private:
  void* take(std::size_t size);

  std::function<void*(std::size_t)> take_;
  std::function<void(void*)> give_back_;
  std::map<std::size_t, std::vector<void*>> free_;  // by size
  std::map<void*, std::size_t> all_;                // with those in use
};

}  // namespace libfam
