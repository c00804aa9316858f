// A stage as data: what is fed to its step graph, and what is kept of it.
//
// sampling/stage_inputs.h writes a StageProgram; sampling/stage_loop.h carries it out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "engines/engine.h"
#include "schedulers/plan.h"

namespace libfam {

enum class Stage { native, target };

// "native" or "target".
const char* name_of(Stage stage);

// Where the target stage gets the native attention of each step (sampling/native_attention.h):
// zeros, what the native stage kept of every step, or the native graph run again at every step.
enum class NativeAttention { none, store, replay };

// "none", "store" or "replay".
const char* name_of(NativeAttention attention);

// Tensors by the names of a graph's inputs.
using Feeds = std::map<std::string, HostTensor, std::less<>>;

// Told about finished steps.
class StepObserver {
 public:
  virtual ~StepObserver() = default;

  // Whether after_step is shown the latent; it costs a download a step.
  virtual bool wants_latents() const { return false; }

  // Called after every step, in its order. `latent`: z_{t-1}, float32 [B, C, h, w], valid until the
  // call returns; null unless latents are wanted. It stops the run by throwing, as a rule
  // Error(cancelled).
  virtual void after_step(Stage stage, std::size_t index, const StepPlan& step,
                          const HostTensor* latent) = 0;
};

struct StageProgram {
  Stage stage = Stage::native;
  // The step graph; it must outlive the run, and a native one that is replayed the target's run.
  Engine* engine = nullptr;
  std::vector<StepPlan> steps;  // noisiest first
  HostTensor first_latent;      // float32 [B, C, h, w]
  Feeds constants;              // inputs that are the same at every step
  Feeds tables;                 // inputs that change with the step, [T, …], row i for step i
  // The noise of the next step that needs some, float32 of first_latent's shape; called once for
  // each of them, in their order, before the first step.
  std::function<HostTensor()> draw_noise;
  StepObserver* observer = nullptr;  // null: nobody looks
  // Of a native stage: `store` keeps the taps of every step. Of a target stage: what feeds them.
  NativeAttention attention = NativeAttention::none;
  // Every tap tensor of the bundle: outputs of the native graph, inputs of the target's.
  std::vector<std::string> tap_names;
  // Of a target stage that replays: the engine that did the native stage before it.
  Engine* native_engine = nullptr;

  std::int64_t batch() const { return first_latent.shape.at(0); }
};

}  // namespace libfam
