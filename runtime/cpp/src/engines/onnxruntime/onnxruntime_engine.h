// A session as an engine: inputs and outputs are bound to memory that others own.
#pragma once

#include <memory>
#include <string>

#include "engines/engine.h"
#include "engines/onnxruntime/library.h"
#include "engines/onnxruntime/shared_weights.h"

namespace libfam {

// Runs a session on addresses. Outputs that are not bound are not written; ONNX Runtime computes
// them nevertheless.
//
// Its work is not captured as a CUDA graph. A session captures itself for one set of addresses, and
// here they change with every step; and capturing from outside needs a session that neither
// allocates nor waits while it runs, which ONNX Runtime does not promise.
class OnnxruntimeEngine final : public Engine {
 public:
  // What the session needs for as long as it lives.
  struct Support {
    std::shared_ptr<Ort::Env> environment;
    std::shared_ptr<const SharedWeights> weights;  // null where the session has its own
  };

  // `session` computes on `device`, the GPU number `device_index` if it is one, in the order of its
  // stream. The device must outlive the engine.
  OnnxruntimeEngine(std::string graph, const GraphSpec& spec, Support support, Ort::Session session,
                    Device& device, int device_index);
  ~OnnxruntimeEngine() override;
  OnnxruntimeEngine(const OnnxruntimeEngine&) = delete;
  OnnxruntimeEngine& operator=(const OnnxruntimeEngine&) = delete;

 protected:
  void enqueue_impl(const Bindings& values) override;

 private:
  void bind(const Bindings& values);

  Support support_;
  Device& device_;
  Ort::Session session_;
  Ort::MemoryInfo place_;
  Ort::IoBinding binding_;
  Ort::RunOptions run_options_;
};

}  // namespace libfam
