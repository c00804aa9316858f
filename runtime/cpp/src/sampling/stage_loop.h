// How a stage program is carried out: everything is uploaded first, then the steps follow each
// other in place (docs/buffer_plan.md). One loop for the host and for GPUs, because the host is a
// Device, too. The steps are launched one by one: nothing is captured as a CUDA graph.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "engines/device.h"
#include "sampling/stage_program.h"
#include "sampling/stage_shape.h"
#include "sampling/stage_slots.h"
#include "sampling/workspace.h"

namespace libfam {

// What a stage leaves behind: views of buffers of the device, valid until the next stage of the
// same kind, StageLoop::end_batch, or StageLoop::close.
struct StageResult {
  TensorView final;                 // z_0, float32 [B, C, h, w]
  std::vector<TensorView> latents;  // z_t at the beginning of every step, of a native stage
  // Mean seconds of a step on a GPU; not on the host, nor where an observer is shown latents, for
  // which the GPU waits.
  std::optional<double> step_seconds;
};

// Carries out stage programs whose engines compute on one device. Not for use by several threads.
class StageLoop {
 public:
  // `every_output_bound`: whether the library writes every output, wanted or not, for what is
  // reserved before engines are loaded. `device` must outlive the loop.
  explicit StageLoop(Device& device, bool every_output_bound = false);

  // Has the buffers of `stages`, both of a batch, ready before the first one starts.
  // Returns the bytes that stay on a GPU for all steps of a call; 0 on the host, where they come
  // and go. Raises: Error(out_of_memory) if they do not fit.
  std::size_t reserve(const std::vector<StageShape>& stages);

  // All steps of a stage. Whatever it throws, nothing of it is running any more afterwards, and the
  // loop can be used again.
  // Raises: Error(backend) if a feed does not fit the graph, or the library failed;
  // Error(out_of_memory); whatever the observer throws.
  StageResult run(const StageProgram& program);

  // The latents of a batch were downloaded: its native stage is forgotten, and on the host all
  // buffers are freed; on a GPU they stay for the next batch, at the same addresses.
  void end_batch() noexcept;
  // Frees all buffers; they are made again when they are needed.
  void close() noexcept;

  Device& device() const { return device_; }
  std::size_t buffer_bytes() const { return workspace_.nbytes(); }  // held now

 private:
  struct NativeStage {
    Engine* engine;
    StageSlots slots;
  };

  StageSlots slots_of(const StageProgram& program);
  const NativeStage* native_of(const StageProgram& program) const;
  // Returns the seconds from the first step's launch to the last one's end.
  double drive(const StageProgram& program, const StageSlots& slots, const NativeStage* native);
  void enqueue_native(const StageProgram& program, const StageSlots& slots, std::size_t index);
  void enqueue_target(const StageProgram& program, const StageSlots& slots,
                      const NativeStage* native, std::size_t index);
  void tell(const StageProgram& program, const StageSlots& slots, std::size_t index,
            HostTensor* shown);

  Device& device_;
  bool every_output_bound_;
  Workspace workspace_;
  // The native stage that ran last, whose buffers hold its inputs, trajectory and taps still.
  std::optional<NativeStage> native_;
};

// Calls end_batch() when a batch is over, however it ends.
class BatchEnd {
 public:
  explicit BatchEnd(StageLoop& loop) : loop_(loop) {}
  ~BatchEnd() { loop_.end_batch(); }
  BatchEnd(const BatchEnd&) = delete;
  BatchEnd& operator=(const BatchEnd&) = delete;

 private:
  StageLoop& loop_;
};

// Carries `program` out, downloads the latent it ends with, and looks at it; the StageResult goes
// to
// `*result` where that is given. `model_dtype`: of the model's weights, for messages.
// Raises: Error(numeric) if the latent holds NaN or infinity; else as StageLoop::run.
HostTensor run_stage(StageLoop& loop, const StageProgram& program, const std::string& model_dtype,
                     StageResult* result = nullptr);

}  // namespace libfam
