// Which slot each step of a stage reads and writes, and what the host writes before the first.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engines/engine.h"
#include "sampling/buffer_plan.h"
#include "sampling/stage_program.h"
#include "sampling/workspace.h"

namespace libfam {

// The slots of one stage. It outlives the program that it was made for: what a program feeds lies
// in the slots once it was uploaded.
class StageSlots {
 public:
  // `plan`: the stage's buffers, which `workspace` holds and must outlive this.
  StageSlots(const StageProgram& program, const StageShape& shape, BufferPlan plan,
             Workspace& workspace, Device& device);

  // Writes what the program feeds as it is: constants, and a row of each table per step.
  void upload_inputs(const StageProgram& program) const;
  // Writes what the steps start from: latent, noise, zeros.
  void upload_start(const StageProgram& program) const;

  // What step `index` starts from; behind the last step, the stage's result.
  TensorView latent(std::size_t index) const;
  // What step `index` reads, and what it writes, but for taps.
  Bindings inputs(std::size_t index) const;
  Bindings outputs(std::size_t index) const;
  // Inputs and unwanted outputs of step `index`, done again for its taps. They depend on neither
  // the previous prediction nor the noise: both inputs are some finite latent, and both slots of
  // the predictions are free to be written to.
  Bindings replayed(std::size_t index) const;

  // Names of the stage's tap tensors, in graph order.
  const std::vector<std::string>& tap_names() const { return tap_names_; }
  // Slot `slot` of the tap tensors `names`.
  Bindings taps(const std::vector<std::string>& names, std::size_t slot) const;
  void zero_taps() const;
  // Frees the taps of a step that were used, where memory is freed at once (Workspace::release).
  void release_taps(const std::vector<std::string>& names, std::size_t slot) const noexcept;

 private:
  const Buffer& buffer(std::string_view what) const;
  const Buffer& tap_buffer(std::string_view name) const;
  TensorView slot(std::string_view what, std::size_t index) const;
  TensorView prediction(std::size_t step_written) const;
  TensorView noise(std::size_t index) const;
  void write(const Buffer& buffer, const HostTensor& rows) const;

  Stage stage_;
  bool keep_trajectory_;
  std::vector<std::string> constants_;
  std::vector<std::string> tables_;
  std::vector<std::string> tap_names_;
  // The rows of steps that need noise, in order; all others read the zeros behind them.
  std::vector<std::size_t> noise_rows_;
  BufferPlan plan_;
  Workspace* workspace_;
  Device* device_;
};

}  // namespace libfam
