#include "sampling/workspace.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "base/error.h"

namespace libfam {
namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20;

std::string mebibytes(std::size_t nbytes) { return std::to_string(nbytes / kMebibyte); }

std::size_t sum_of(const std::vector<DeviceMemory>& blocks) {
  std::size_t sum = 0;
  for (const DeviceMemory& block : blocks) sum += block.nbytes();
  return sum;
}

}  // namespace

void Workspace::ensure(const BufferPlan& plan) {
  std::vector<const Buffer*> grown;
  for (const Buffer& buffer : plan.buffers) {
    if (!holds(buffer)) grown.push_back(&buffer);
  }
  if (grown.empty()) return;
  check_room(plan, grown);
  for (const Buffer* buffer : grown) held_.erase(buffer->name);
  for (const Buffer* buffer : grown) {
    const bool each = slot_by_slot(*buffer);
    Blocks blocks;
    for (std::size_t i = 0; i < (each ? buffer->slots : 1); ++i) {
      blocks.emplace_back(device_, each ? buffer->slot_bytes() : buffer->nbytes());
    }
    held_.emplace(buffer->name, std::move(blocks));
  }
}

TensorView Workspace::slot(const Buffer& buffer, std::size_t index) const {
  const auto found = held_.find(buffer.name);
  if (found == held_.end() || index >= buffer.slots) {
    throw std::logic_error("no such slot: " + buffer.name);
  }
  const bool each = slot_by_slot(buffer);
  const DeviceMemory& block = found->second.at(each ? index : 0);
  const std::size_t offset = each ? 0 : index * buffer.slot_bytes();
  if (block.data() == nullptr || offset + buffer.slot_bytes() > block.nbytes()) {
    throw std::logic_error("a slot was released: " + buffer.name);
  }
  return {static_cast<std::byte*>(block.data()) + offset, buffer.shape, buffer.dtype};
}

void Workspace::release(const Buffer& buffer, std::size_t index) noexcept {
  const auto found = held_.find(buffer.name);
  if (found == held_.end() || !slot_by_slot(buffer) || index >= found->second.size()) return;
  found->second[index] = DeviceMemory();
}

std::size_t Workspace::nbytes() const {
  std::size_t sum = 0;
  for (const auto& [name, blocks] : held_) sum += sum_of(blocks);
  return sum;
}

bool Workspace::holds(const Buffer& buffer) const {
  const auto found = held_.find(buffer.name);
  if (found == held_.end()) return false;
  const Blocks& blocks = found->second;
  if (!slot_by_slot(buffer)) return blocks.at(0).nbytes() >= buffer.nbytes();
  const auto large = [&](const DeviceMemory& block) {
    return block.nbytes() >= buffer.slot_bytes();
  };
  return blocks.size() >= buffer.slots && std::ranges::all_of(blocks, large);
}

// On the host the taps of a step are freed as soon as they were used: they are the largest thing in
// memory.
bool Workspace::slot_by_slot(const Buffer& buffer) const {
  return buffer.owner == Buffer::Owner::both && device_.is_host();
}

void Workspace::check_room(const BufferPlan& plan, const std::vector<const Buffer*>& grown) const {
  if (device_.is_host()) return;  // a page is taken when it is written, and may be swapped
  const auto free = device_.free_memory_bytes();
  if (!free) return;
  std::size_t needed = 0;
  std::size_t held = 0;
  for (const Buffer* buffer : grown) {
    needed += buffer->nbytes();
    const auto found = held_.find(buffer->name);
    if (found != held_.end()) held += sum_of(found->second);
  }
  const std::size_t room = *free + held;
  if (needed <= room) return;
  const auto total = device_.total_memory_bytes();
  const std::string of_total = total ? " of " + mebibytes(*total) : "";
  throw Error(
      ErrorCode::out_of_memory,
      {.what = "the buffers of this call do not fit on " + device_.name(),
       .got = repr(mebibytes(needed) + " MiB to take, of " + mebibytes(plan.nbytes()) + " in all"),
       .expected =
           "at most " + mebibytes(room) + " MiB; " + mebibytes(*free) + of_total + " MiB are free",
       .fix = "native_attention='replay', fewer pictures_per_batch, or a smaller size"});
}

}  // namespace libfam
