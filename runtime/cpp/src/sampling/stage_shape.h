// What decides the memory of a stage, known before anything is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "sampling/stage_program.h"

namespace libfam {

struct StageShape {
  Stage stage = Stage::native;
  const GraphSpec* spec = nullptr;  // of its step graph
  std::int64_t batch = 1;           // pictures that go through it together
  std::vector<bool> noisy;          // for every step, whether it needs noise
  bool keep_trajectory = false;     // the latent at the beginning of every step is kept
  // Its tap tensors: outputs of the native graph, inputs of the target's.
  std::vector<TensorSpec> taps;
  // Steps whose taps have a place of their own: all of them in a native stage that stores them; one
  // in a target stage that does not get them from there; else none.
  std::int64_t tap_slots = 0;
};

// The shape of a stage of these steps. `tap_names`: of the bundle, Manifest::tap_names.
StageShape stage_shape(Stage stage, const GraphSpec& spec, std::int64_t batch,
                       const std::vector<StepPlan>& steps,
                       const std::vector<std::string>& tap_names, NativeAttention attention);
StageShape stage_shape(const StageProgram& program);

}  // namespace libfam
