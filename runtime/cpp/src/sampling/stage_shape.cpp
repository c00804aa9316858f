#include "sampling/stage_shape.h"

#include <algorithm>

namespace libfam {

StageShape stage_shape(Stage stage, const GraphSpec& spec, std::int64_t batch,
                       const std::vector<StepPlan>& steps,
                       const std::vector<std::string>& tap_names, NativeAttention attention) {
  const bool native = stage == Stage::native;
  StageShape shape;
  shape.stage = stage;
  shape.spec = &spec;
  shape.batch = batch;
  shape.keep_trajectory = native;
  for (const StepPlan& step : steps) shape.noisy.push_back(step.needs_noise);
  for (const TensorSpec& tensor : native ? spec.outputs : spec.inputs) {
    if (std::ranges::find(tap_names, tensor.name) != tap_names.end()) shape.taps.push_back(tensor);
  }
  const bool stored = attention == NativeAttention::store;
  if (native) {
    shape.tap_slots = stored ? static_cast<std::int64_t>(steps.size()) : 0;
  } else {
    shape.tap_slots = stored ? 0 : 1;
  }
  return shape;
}

StageShape stage_shape(const StageProgram& program) {
  return stage_shape(program.stage, program.engine->spec(), program.batch(), program.steps,
                     program.tap_names, program.attention);
}

}  // namespace libfam
