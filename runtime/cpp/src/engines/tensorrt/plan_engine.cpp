#include "engines/tensorrt/plan_engine.h"

#include <utility>

#include "base/error.h"
#include "engines/tensorrt/plan_check.h"

namespace libfam {
namespace {

constexpr const char* kTry =
    "end other programs that use the GPU; if it stays in every new process, try another version of "
    "the library or the onnxruntime backend";

// Whether the library's words are about memory, however it spells them.
bool says_out_of_memory(const std::string& message) {
  std::string letters;
  for (const char c : message) {
    if (c != ' ') letters += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return letters.find("outofmemory") != std::string::npos;
}

std::string text_of(const Shape& shape) {
  std::vector<Repr> sizes;
  for (const std::int64_t size : shape) sizes.push_back(repr(size));
  return repr_tuple(sizes).text;
}

}  // namespace

PlanEngine::PlanEngine(const Shared& shared, const CachedPlan& plan, std::string graph,
                       const GraphSpec& spec, const std::string& build_command)
    : shared_(shared), graph_(std::move(graph)), plan_name_(plan.name), ranges_(plan.ranges) {
  shared_.runtime.forget_message();
  load(plan, spec, build_command);
  shared_.scratch.join(*plan_);
}

PlanEngine::~PlanEngine() {
  std::vector<std::uint8_t> kernels;
  try {
    kernels = plan_->kernels();
  } catch (const std::exception&) {
    kernels.clear();  // they only save time
  }
  shared_.scratch.leave(*plan_);
  plan_.reset();
  shared_.cache.keep_kernels(plan_name_, kernels);
}

void PlanEngine::load(const CachedPlan& plan, const GraphSpec& spec,
                      const std::string& build_command) {
  const std::string build_again = "delete " + shared_.cache.store().path_of(plan_name_) +
                                  ", and build it again: " + build_command;
  plan_ = shared_.runtime.load(plan.data.data(), plan.data.nbytes());
  if (!plan_) throw error("cannot be loaded", build_again);
  const std::vector<PlanTensor> tensors = plan_->tensors();
  check_plan(graph_, spec, ranges_, tensors, build_again);
  dynamic_inputs_ = dynamic_inputs(tensors);
  if (!plan_->make_context(shared_.cache.kernels(plan_name_))) {
    throw error("has no memory to run", "use a smaller target or batch, or free memory on the GPU");
  }
}

void PlanEngine::enqueue(const Bindings& values, void* stream) {
  shared_.scratch.check();
  shared_.runtime.forget_message();
  set_shapes(values);
  for (const auto& [name, tensor] : values) {
    if (!plan_->set_address(name, tensor.data)) throw error("refuses the memory of " + name);
  }
  if (!plan_->enqueue(stream)) throw error("failed");
}

void PlanEngine::set_shapes(const Bindings& values) {
  for (const std::string& name : dynamic_inputs_) {
    const Shape& shape = values.at(name).shape;
    if (const auto known = shapes_.find(name); known != shapes_.end() && known->second == shape) {
      continue;
    }
    shapes_.erase(name);
    if (!plan_->set_input_shape(name, shape)) {
      throw error("refuses the shape " + text_of(shape) + " of " + name);
    }
    shapes_[name] = shape;
  }
}

Error PlanEngine::error(const std::string& what, const std::string& fix) const {
  const std::string said = shared_.runtime.last_message();
  return {says_out_of_memory(said) ? ErrorCode::out_of_memory : ErrorCode::backend,
          {.what = std::string(shared_.runtime.traits().title) + ": the engine of " + graph_ + " " +
                   what,
           .got = repr(said),
           .expected = "a working engine",
           .fix = fix.empty() ? kTry : fix}};
}

}  // namespace libfam
