#include "sampling/stage_loop.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <utility>

#include "bundle/contract.h"
#include "engines/feed_checks.h"
#include "sampling/check_finite.h"

namespace libfam {
namespace {

// Says in words what does not fit the graph. What is bound later has the shape that was planned for
// it: the question is what is written there.
void check_program(const StageProgram& program, const StageShape& shape) {
  Bindings written;
  for (const auto& [name, constant] : program.constants) written.emplace(name, constant.view());
  for (const auto& [name, table] : program.tables) {
    TensorView row = table.view();
    if (row.shape.empty()) throw std::logic_error("a table without rows: " + name);
    row.shape.erase(row.shape.begin());
    written.emplace(name, std::move(row));
  }
  const TensorView latent = program.first_latent.view();
  for (const char* name :
       {contract::kLatent, contract::kPreviousPrediction, contract::kStepNoise}) {
    written.emplace(name, latent);
  }
  if (program.stage == Stage::target) {
    for (const TensorSpec& tap : shape.taps) {
      // Of the size that is planned for them; nothing is read where this points.
      const Shape planned = shape_from_symbols(tap.shape, {{"B", shape.batch}});
      written.emplace(tap.name, TensorView{latent.data, planned, tap.dtype});
    }
  }
  check_feeds(program.engine->graph(), shape.spec->inputs, written);
}

std::vector<std::string> names_of(const Bindings& bindings) {
  std::vector<std::string> names;
  for (const auto& [name, view] : bindings) names.push_back(name);
  return names;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

// Whether the library writes taps even where only the sampler's outputs are wanted.
bool writes_taps(const Engine& engine, const StageShape& shape) {
  const auto required = engine.required_outputs({contract::kNextLatent, contract::kPrediction});
  return std::ranges::any_of(shape.taps,
                             [&](const TensorSpec& tap) { return contains(required, tap.name); });
}

// Waits for whatever is on the stream when a run ends, also by an error, which is then the one to
// be told of.
class StreamGuard {
 public:
  explicit StreamGuard(Device& device) : device_(device) {}
  ~StreamGuard() {
    try {
      device_.synchronize();
    } catch (...) {
    }
  }
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  Device& device_;
};

}  // namespace

StageLoop::StageLoop(Device& device, bool every_output_bound)
    : device_(device), every_output_bound_(every_output_bound), workspace_(device) {}

std::size_t StageLoop::reserve(const std::vector<StageShape>& stages) {
  device_.activate();
  const BufferPlan plan = plan_buffers(stages, every_output_bound_);
  workspace_.ensure(plan);
  return device_.is_host() ? 0 : plan.nbytes();
}

StageResult StageLoop::run(const StageProgram& program) {
  device_.activate();
  if (program.stage == Stage::native) native_.reset();  // its buffers are about to be written to
  const StreamGuard guard(device_);
  const NativeStage* native = native_of(program);
  const StageSlots slots = slots_of(program);
  slots.upload_inputs(program);
  slots.upload_start(program);
  const double seconds = drive(program, slots, native);
  const std::size_t steps = program.steps.size();
  StageResult result = {.final = slots.latent(steps), .latents = {}, .step_seconds = {}};
  if (program.stage == Stage::native) {
    for (std::size_t i = 0; i < steps; ++i) result.latents.push_back(slots.latent(i));
    native_ = NativeStage{program.engine, slots};
  }
  const bool shown = program.observer != nullptr && program.observer->wants_latents();
  if (!device_.is_host() && !shown) result.step_seconds = seconds / static_cast<double>(steps);
  return result;
}

void StageLoop::end_batch() noexcept {
  native_.reset();  // its engine may be gone before the next batch
  if (device_.is_host()) workspace_.clear();
}

void StageLoop::close() noexcept {
  native_.reset();
  workspace_.clear();
}

StageSlots StageLoop::slots_of(const StageProgram& program) {
  const StageShape shape = stage_shape(program);
  check_program(program, shape);
  BufferPlan plan = plan_buffers({shape}, writes_taps(*program.engine, shape));
  workspace_.ensure(plan);
  return {program, shape, std::move(plan), workspace_, device_};
}

const StageLoop::NativeStage* StageLoop::native_of(const StageProgram& program) const {
  const bool needed = program.stage == Stage::target && program.attention != NativeAttention::none;
  if (!needed) return nullptr;
  if (!native_) throw std::logic_error("no native stage ran before this target stage");
  if (program.attention == NativeAttention::replay && native_->engine != program.native_engine) {
    throw std::logic_error("what is to be replayed is not the last native stage that ran");
  }
  return &*native_;
}

double StageLoop::drive(const StageProgram& program, const StageSlots& slots,
                        const NativeStage* native) {
  if (program.stage == Stage::target && native == nullptr) slots.zero_taps();
  HostTensor shown;
  device_.synchronize();
  const auto started = std::chrono::steady_clock::now();
  for (std::size_t index = 0; index < program.steps.size(); ++index) {
    if (program.stage == Stage::native) {
      enqueue_native(program, slots, index);
    } else {
      enqueue_target(program, slots, native, index);
    }
    if (program.observer != nullptr) tell(program, slots, index, &shown);
  }
  device_.synchronize();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  return elapsed.count();
}

void StageLoop::enqueue_native(const StageProgram& program, const StageSlots& slots,
                               std::size_t index) {
  const bool kept = program.attention == NativeAttention::store;
  std::vector<std::string> wanted = {contract::kNextLatent, contract::kPrediction};
  if (kept) wanted.insert(wanted.end(), slots.tap_names().begin(), slots.tap_names().end());
  const auto required = program.engine->required_outputs(wanted);
  std::vector<std::string> taps;
  for (const std::string& name : slots.tap_names()) {
    if (contains(required, name)) taps.push_back(name);
  }
  Bindings bound = slots.inputs(index);
  bound.merge(slots.outputs(index));
  bound.merge(slots.taps(taps, kept ? index : 0));
  program.engine->enqueue(bound);
}

void StageLoop::enqueue_target(const StageProgram& program, const StageSlots& slots,
                               const NativeStage* native, std::size_t index) {
  const bool stored = native != nullptr && program.attention == NativeAttention::store;
  Bindings taps =
      stored ? native->slots.taps(slots.tap_names(), index) : slots.taps(slots.tap_names(), 0);
  if (native != nullptr && !stored) {
    Bindings again = native->slots.replayed(index);
    again.insert(taps.begin(), taps.end());
    const auto required = native->engine->required_outputs(names_of(taps));
    for (const char* output : {contract::kNextLatent, contract::kPrediction}) {
      if (!contains(required, output)) again.erase(output);
    }
    native->engine->enqueue(again);
  }
  Bindings bound = slots.inputs(index);
  bound.merge(slots.outputs(index));
  bound.merge(std::move(taps));
  program.engine->enqueue(bound);
  if (stored) native->slots.release_taps(slots.tap_names(), index);
}

// Tells of a step when it is done. The stream is empty meanwhile.
void StageLoop::tell(const StageProgram& program, const StageSlots& slots, std::size_t index,
                     HostTensor* shown) {
  const StepPlan& step = program.steps[index];
  if (!program.observer->wants_latents()) {
    device_.synchronize();
    program.observer->after_step(program.stage, index, step, nullptr);
    return;
  }
  const TensorView latent = slots.latent(index + 1);
  if (shown->bytes.empty()) *shown = HostTensor::zeros(latent.shape, latent.dtype);
  device_.copy_to_host(shown->bytes.data(), latent.data, latent.nbytes());
  program.observer->after_step(program.stage, index, step, shown);
}

HostTensor run_stage(StageLoop& loop, const StageProgram& program, const std::string& model_dtype,
                     StageResult* result) {
  StageResult done = loop.run(program);
  HostTensor latent = HostTensor::zeros(done.final.shape, done.final.dtype);
  loop.device().copy_to_host(latent.bytes.data(), done.final.data, done.final.nbytes());
  check_finite("the " + std::string(name_of(program.stage)) + " latent", latent, model_dtype);
  if (result != nullptr) *result = std::move(done);
  return latent;
}

}  // namespace libfam
