// What is asked of TensorRT, without its types: so that everything around it is compiled and tested
// where its headers and its library are not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "engines/tensorrt/library.h"

namespace libfam {

// An input or output of a plan.
struct PlanTensor {
  std::string name;
  std::string dtype;  // as the manifest writes it
  Shape shape;        // -1 for a size that is not fixed
  bool is_input = false;
};

// A plan in the library, with the one context that runs it.
class LoadedPlan {
 public:
  virtual ~LoadedPlan() = default;

  virtual std::vector<PlanTensor> tensors() const = 0;  // in the library's order
  // Of the tensors inside the graph, whatever the shapes.
  virtual std::size_t scratch_bytes() const = 0;
  // Makes the context; before that, nothing below may be called. `kernels` of earlier runs help
  // TensorRT for RTX; they may be empty, or of another driver. False: the library said why.
  virtual bool make_context(const std::vector<std::uint8_t>& kernels) = 0;

  virtual void set_scratch(void* address, std::size_t nbytes) = 0;
  virtual bool set_input_shape(const std::string& name, const Shape& shape) = 0;
  virtual bool set_address(const std::string& name, void* address) = 0;
  // Puts one run on a CUDA stream.
  virtual bool enqueue(void* stream) = 0;
  // Kernels that were compiled for this GPU, to keep for later runs; empty where there are none.
  virtual std::vector<std::uint8_t> kernels() const = 0;
};

// The library. Plans must not outlive it.
class PlanRuntime {
 public:
  virtual ~PlanRuntime() = default;

  virtual const TensorrtTraits& traits() const = 0;
  virtual TensorrtVersion version() const = 0;
  // Null: the library refuses it, and said why. `data` is needed during the call only.
  virtual std::unique_ptr<LoadedPlan> load(const void* data, std::size_t nbytes) = 0;

  // The library's last error since forget_message(), or "no reason given".
  virtual std::string last_message() const = 0;
  virtual void forget_message() = 0;
};

// Raises: Error(backend) if this build has no such library, it cannot be loaded, or is too old.
std::unique_ptr<PlanRuntime> open_plan_runtime(TensorrtName library);

}  // namespace libfam
