#include "sampling/buffer_plan.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "base/error.h"
#include "bundle/contract.h"

namespace libfam {
namespace {

// Inputs with a row per step; what is neither here nor below is the same at every step.
constexpr std::array<std::string_view, 5> kPerStepInputs = {
    contract::kTimestep, contract::kStepCoefficients, contract::kFmKernelRows,
    contract::kFmKernelColumns, contract::kFmWeight};
constexpr std::array<std::string_view, 3> kFlowingInputs = {
    contract::kLatent, contract::kPreviousPrediction, contract::kStepNoise};

// The largest buffer that is planned, so that no sum of a plan's bytes overflows: 256 TiB.
constexpr std::size_t kMaxBufferBytes = std::size_t{1} << 48;

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

// Refuses what would overflow: a manifest may name any dimensions.
void check_size(const Buffer& buffer) {
  std::size_t room = kMaxBufferBytes / std::max<std::size_t>(buffer.slots, 1);
  room = room / kDeviceAlignment * kDeviceAlignment / bytes_of(buffer.dtype);
  for (const std::int64_t dimension : buffer.shape) {
    if (dimension < 0) throw std::logic_error("a dimension is negative");
    const auto size = static_cast<std::size_t>(dimension);
    if (size > room) {
      throw Error(ErrorCode::out_of_memory, {.what = "the buffer " + buffer.name + " is too large",
                                             .got = repr(std::to_string(buffer.slots) + " slots"),
                                             .expected = "at most 256 TiB",
                                             .fix = "fewer steps, pictures_per_batch, or a smaller "
                                                    "size"});
    }
    if (size > 0) room /= size;
  }
}

class Planner {
 public:
  Planner(const StageShape& stage, bool every_output_bound, std::vector<Buffer>& largest)
      : stage_(stage),
        sizes_{{"B", stage.batch}},
        steps_(stage.noisy.size()),
        every_output_bound_(every_output_bound),
        largest_(largest) {}

  void stage_buffers() {
    const TensorSpec* latent = stage_.spec->input(contract::kLatent);
    if (latent == nullptr) throw std::logic_error("a step graph has no latent");
    add_own(kLatents, stage_.keep_trajectory ? steps_ + 1 : 2, *latent, true);
    add_own(kPredictions, 2, *latent, false);
    const auto drawn = static_cast<std::size_t>(std::ranges::count(stage_.noisy, true));
    add_own(contract::kStepNoise, drawn == steps_ ? drawn : drawn + 1, *latent, true);
    for (const TensorSpec& input : stage_.spec->inputs) {
      if (contains(kFlowingInputs, input.name) || is_tap(input.name)) continue;
      add_own(input.name, contains(kPerStepInputs, input.name) ? steps_ : 1, input, true);
    }
  }

  void tap_buffers() {
    auto slots = static_cast<std::size_t>(stage_.tap_slots);
    // Written by a library that insists on it, and never read.
    if (stage_.stage == Stage::native && slots == 0 && every_output_bound_) slots = 1;
    if (slots == 0) return;
    for (const TensorSpec& tap : stage_.taps) {
      add(std::string(kTaps) + "." + tap.name, slots, tap, Buffer::Owner::both, false);
    }
  }

 private:
  bool is_tap(const std::string& name) const {
    return std::ranges::find(stage_.taps, name, &TensorSpec::name) != stage_.taps.end();
  }

  void add_own(const std::string& what, std::size_t slots, const TensorSpec& spec, bool copied) {
    const bool native = stage_.stage == Stage::native;
    add(std::string(name_of(stage_.stage)) + "." + what, slots, spec,
        native ? Buffer::Owner::native : Buffer::Owner::target, copied);
  }

  void add(std::string name, std::size_t slots, const TensorSpec& spec, Buffer::Owner owner,
           bool copied) {
    Buffer buffer = {.name = std::move(name),
                     .slots = slots,
                     .shape = shape_from_symbols(spec.shape, sizes_),
                     .dtype = spec.dtype,
                     .owner = owner,
                     .copied = copied};
    check_size(buffer);
    const auto known = std::ranges::find(largest_, buffer.name, &Buffer::name);
    if (known == largest_.end()) {
      largest_.push_back(std::move(buffer));
    } else if (known->nbytes() < buffer.nbytes()) {
      *known = std::move(buffer);
    }
  }

  const StageShape& stage_;
  Sizes sizes_;
  std::size_t steps_;
  bool every_output_bound_;
  std::vector<Buffer>& largest_;
};

}  // namespace

std::size_t Buffer::slot_bytes() const { return aligned(bytes_of(shape, dtype)); }

std::size_t BufferPlan::nbytes() const {
  std::size_t sum = 0;
  for (const Buffer& buffer : buffers) sum += buffer.nbytes();
  return sum;
}

const Buffer* BufferPlan::find(std::string_view name) const {
  const auto found = std::ranges::find(buffers, name, &Buffer::name);
  return found == buffers.end() ? nullptr : &*found;
}

BufferPlan plan_buffers(const std::vector<StageShape>& stages, bool every_output_bound) {
  BufferPlan plan;
  for (const StageShape& stage : stages) {
    Planner planner(stage, every_output_bound, plan.buffers);
    planner.stage_buffers();
    planner.tap_buffers();
  }
  return plan;
}

}  // namespace libfam
