#include "sampling/stage_slots.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "bundle/contract.h"

namespace libfam {
namespace {

std::vector<std::string> names_of(const Feeds& feeds) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : feeds) names.push_back(name);
  return names;
}

std::vector<std::size_t> noise_rows(const std::vector<bool>& noisy) {
  const auto drawn = static_cast<std::size_t>(std::ranges::count(noisy, true));
  std::vector<std::size_t> rows;
  std::size_t next = 0;
  for (const bool needed : noisy) rows.push_back(needed ? next++ : drawn);
  return rows;
}

}  // namespace

StageSlots::StageSlots(const StageProgram& program, const StageShape& shape, BufferPlan plan,
                       Workspace& workspace, Device& device)
    : stage_(program.stage),
      keep_trajectory_(shape.keep_trajectory),
      constants_(names_of(program.constants)),
      tables_(names_of(program.tables)),
      noise_rows_(noise_rows(shape.noisy)),
      plan_(std::move(plan)),
      workspace_(&workspace),
      device_(&device) {
  for (const TensorSpec& tap : shape.taps) tap_names_.push_back(tap.name);
}

void StageSlots::upload_inputs(const StageProgram& program) const {
  for (const auto& [name, constant] : program.constants) write(buffer(name), constant);
  for (const auto& [name, table] : program.tables) write(buffer(name), table);
}

void StageSlots::upload_start(const StageProgram& program) const {
  const auto upload = [&](const TensorView& target, const HostTensor& source) {
    if (source.bytes.size() != target.nbytes()) throw std::logic_error("a latent does not fit");
    device_->copy_to_device(target.data, source.bytes.data(), source.bytes.size());
  };
  upload(latent(0), program.first_latent);
  const TensorView before = prediction(1);
  device_->fill_zero(before.data, before.nbytes());
  const Buffer& rows = buffer(contract::kStepNoise);
  std::size_t drawn = 0;
  for (const StepPlan& step : program.steps) {
    if (step.needs_noise) upload(workspace_->slot(rows, drawn++), program.draw_noise());
  }
  if (drawn < program.steps.size()) {
    const TensorView zeros = workspace_->slot(rows, drawn);
    device_->fill_zero(zeros.data, zeros.nbytes());
  }
}

TensorView StageSlots::latent(std::size_t index) const {
  return slot(kLatents, keep_trajectory_ ? index : index % 2);
}

TensorView StageSlots::prediction(std::size_t step_written) const {
  return slot(kPredictions, step_written % 2);
}

TensorView StageSlots::noise(std::size_t index) const {
  return slot(contract::kStepNoise, noise_rows_.at(index));
}

Bindings StageSlots::inputs(std::size_t index) const {
  Bindings bound;
  for (const std::string& name : constants_) bound.emplace(name, slot(name, 0));
  for (const std::string& name : tables_) bound.emplace(name, slot(name, index));
  bound.emplace(contract::kLatent, latent(index));
  bound.emplace(contract::kPreviousPrediction, prediction(index + 1));  // of the step before
  bound.emplace(contract::kStepNoise, noise(index));
  return bound;
}

Bindings StageSlots::outputs(std::size_t index) const {
  return {{contract::kNextLatent, latent(index + 1)}, {contract::kPrediction, prediction(index)}};
}

Bindings StageSlots::replayed(std::size_t index) const {
  Bindings bound = inputs(index);
  bound.insert_or_assign(contract::kPreviousPrediction, noise(index));
  bound.emplace(contract::kNextLatent, prediction(0));
  bound.emplace(contract::kPrediction, prediction(1));
  return bound;
}

Bindings StageSlots::taps(const std::vector<std::string>& names, std::size_t slot) const {
  Bindings bound;
  for (const std::string& name : names) {
    bound.emplace(name, workspace_->slot(tap_buffer(name), slot));
  }
  return bound;
}

void StageSlots::zero_taps() const {
  for (const auto& [name, tap] : taps(tap_names_, 0)) device_->fill_zero(tap.data, tap.nbytes());
}

void StageSlots::release_taps(const std::vector<std::string>& names,
                              std::size_t slot) const noexcept {
  constexpr std::size_t kPrefix = std::string_view("taps.").size();
  for (const Buffer& buffer : plan_.buffers) {
    if (buffer.owner != Buffer::Owner::both) continue;
    const std::string_view tap = std::string_view(buffer.name).substr(kPrefix);
    if (std::ranges::find(names, tap) != names.end()) workspace_->release(buffer, slot);
  }
}

const Buffer& StageSlots::buffer(std::string_view what) const {
  const std::string name = std::string(name_of(stage_)) + "." + std::string(what);
  const Buffer* found = plan_.find(name);
  if (found == nullptr) throw std::logic_error("no such buffer: " + name);
  return *found;
}

const Buffer& StageSlots::tap_buffer(std::string_view name) const {
  const std::string full = std::string(kTaps) + "." + std::string(name);
  const Buffer* found = plan_.find(full);
  if (found == nullptr) throw std::logic_error("no such buffer: " + full);
  return *found;
}

TensorView StageSlots::slot(std::string_view what, std::size_t index) const {
  return workspace_->slot(buffer(what), index);
}

// All rows of a buffer in one copy, each padded to its slot.
void StageSlots::write(const Buffer& buffer, const HostTensor& rows) const {
  const std::size_t row_bytes = bytes_of(buffer.shape, buffer.dtype);
  if (rows.bytes.size() != buffer.slots * row_bytes) {
    throw std::logic_error("rows do not fill " + buffer.name);
  }
  void* target = workspace_->slot(buffer, 0).data;
  if (buffer.slots == 1) {
    device_->copy_to_device(target, rows.bytes.data(), row_bytes);
    return;
  }
  std::vector<std::byte> padded(buffer.nbytes());
  for (std::size_t i = 0; row_bytes > 0 && i < buffer.slots; ++i) {
    std::memcpy(padded.data() + i * buffer.slot_bytes(), rows.bytes.data() + i * row_bytes,
                row_bytes);
  }
  device_->copy_to_device(target, padded.data(), padded.size());
}

}  // namespace libfam
