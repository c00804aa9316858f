// A graph of a bundle on TensorRT: a plan for each range of sizes, loaded when one is needed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engines/device.h"
#include "engines/engine.h"
#include "engines/tensorrt/plan_engine.h"

namespace libfam {

// Loads the plan that runs at the given sizes. Raises: Error(backend) if there is none.
using PlanForSizes = std::function<std::unique_ptr<PlanEngine>(const Sizes& sizes)>;

class TensorrtEngine final : public Engine {
 public:
  // `device` must outlive the engine.
  TensorrtEngine(std::string graph, const GraphSpec& spec, Device& device,
                 PlanForSizes plan_for_sizes);
  // Waits for the stream.
  ~TensorrtEngine() override;
  TensorrtEngine(const TensorrtEngine&) = delete;
  TensorrtEngine& operator=(const TensorrtEngine&) = delete;

  // All of them: TensorRT writes every output.
  std::vector<std::string> required_outputs(const std::vector<std::string>& wanted) const override;
  // Without sizes it loads nothing: nobody knows yet which plan.
  void prepare(const Sizes& sizes) override;

 protected:
  void enqueue_impl(const Bindings& values) override;

 private:
  PlanEngine& plan(const Sizes& sizes);

  Device& device_;
  PlanForSizes plan_for_sizes_;
  std::vector<std::unique_ptr<PlanEngine>> plans_;
};

}  // namespace libfam
