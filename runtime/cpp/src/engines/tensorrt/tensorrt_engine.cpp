#include "engines/tensorrt/tensorrt_engine.h"

#include <utility>

#include "base/error.h"
#include "engines/feed_checks.h"

namespace libfam {

TensorrtEngine::TensorrtEngine(std::string graph, const GraphSpec& spec, Device& device,
                               PlanForSizes plan_for_sizes)
    : Engine(std::move(graph), spec), device_(device), plan_for_sizes_(std::move(plan_for_sizes)) {}

TensorrtEngine::~TensorrtEngine() {
  try {
    device_.activate();
    device_.synchronize();
  } catch (const Error&) {
    return;  // what failed on the stream was told to whoever waited for it, or will be
  }
}

std::vector<std::string> TensorrtEngine::required_outputs(const std::vector<std::string>&) const {
  std::vector<std::string> names;
  for (const TensorSpec& output : spec().outputs) names.push_back(output.name);
  return names;
}

void TensorrtEngine::prepare(const Sizes& sizes) {
  if (sizes.empty()) return;
  device_.activate();
  plan(sizes);
}

void TensorrtEngine::enqueue_impl(const Bindings& values) {
  Sizes sizes;
  for (const TensorSpec& input : spec().inputs) {
    bind_shape(input.shape, values.find(input.name)->second.shape, sizes);
  }
  plan(sizes).enqueue(values, device_.stream());
}

PlanEngine& TensorrtEngine::plan(const Sizes& sizes) {
  for (const auto& plan : plans_) {
    if (ranges_contain(plan->ranges(), sizes)) return *plan;
  }
  plans_.push_back(plan_for_sizes_(sizes));
  return *plans_.back();
}

}  // namespace libfam
