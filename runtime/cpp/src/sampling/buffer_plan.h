// Which buffers a call keeps on its device: pure data, drawn in docs/buffer_plan.md.
//
// Every buffer has slots, each padded to kDeviceAlignment, so that a slot is addressed in place.
// Nothing is copied between the steps of a stage: the host writes before the first one and reads
// after the last.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "engines/device.h"
#include "sampling/stage_shape.h"

namespace libfam {

// What buffers are called besides the graph's inputs: "<stage>.latents", "taps.<tensor>".
inline constexpr const char* kLatents = "latents";
inline constexpr const char* kPredictions = "predictions";
inline constexpr const char* kTaps = "taps";

struct Buffer {
  enum class Owner { native, target, both };

  std::string name;       // "<stage>.<what>", or "taps.<tensor>"
  std::size_t slots = 0;  // how many tensors it holds
  Shape shape;            // of one of them
  Dtype dtype = Dtype::float32;
  Owner owner = Owner::both;  // the stage that it belongs to; taps belong to both
  bool copied = false;        // once a stage, from the host; else never

  std::size_t slot_bytes() const;  // from one slot to the next
  std::size_t nbytes() const { return slots * slot_bytes(); }
};

// The buffers of one stage, or of a batch; each name once.
struct BufferPlan {
  std::vector<Buffer> buffers;

  std::size_t nbytes() const;
  const Buffer* find(std::string_view name) const;  // null if there is none
};

// The buffers of `stages`; what they share is as large as the larger need. `every_output_bound`:
// the library writes every output, wanted or not. Raises: Error(backend) if a dimension of the
// manifest cannot be read; Error(out_of_memory) for sizes that no memory has.
BufferPlan plan_buffers(const std::vector<StageShape>& stages, bool every_output_bound);

}  // namespace libfam
