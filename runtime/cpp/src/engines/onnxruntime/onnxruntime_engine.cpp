#include "engines/onnxruntime/onnxruntime_engine.h"

#include <utility>

#include "engines/onnxruntime/onnxruntime_error.h"

namespace libfam {
namespace {

Ort::MemoryInfo memory_of(const Device& device, int device_index) {
  if (device.is_host()) return Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  return {"Cuda", OrtDeviceAllocator, device_index, OrtMemTypeDefault};
}

Ort::RunOptions run_options_for(const Device& device) {
  Ort::RunOptions options;
  options.SetRunLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  if (!device.is_host()) {
    // The stream orders what follows; without this, every run ends with a wait for the GPU.
    options.AddConfigEntry("disable_synchronize_execution_providers", "1");
  }
  return options;
}

}  // namespace

OnnxruntimeEngine::OnnxruntimeEngine(std::string graph, const GraphSpec& spec, Support support,
                                     Ort::Session session, Device& device, int device_index)
    : Engine(std::move(graph), spec),
      support_(std::move(support)),
      device_(device),
      session_(std::move(session)),
      place_(memory_of(device, device_index)),
      binding_(session_),
      run_options_(run_options_for(device)) {}

OnnxruntimeEngine::~OnnxruntimeEngine() {
  try {
    device_.activate();
    device_.synchronize();  // work on the stream uses the session's memory
  } catch (const std::exception&) {
    // Whoever waits for that work is told.
  }
}

void OnnxruntimeEngine::enqueue_impl(const Bindings& values) {
  device_.activate();
  try {
    bind(values);
    session_.Run(run_options_, binding_);
  } catch (const Ort::Exception& error) {
    throw error_from_onnxruntime("onnxruntime failed in " + graph(), error);
  }
}

void OnnxruntimeEngine::bind(const Bindings& values) {
  const auto bound = [this](const TensorView& value) {
    return Ort::Value::CreateTensor(place_, value.data, value.nbytes(), value.shape.data(),
                                    value.shape.size(), element_type_of(value.dtype));
  };
  binding_.ClearBoundInputs();
  binding_.ClearBoundOutputs();
  for (const TensorSpec& input : spec().inputs) {
    binding_.BindInput(input.name.c_str(), bound(values.find(input.name)->second));
  }
  for (const TensorSpec& output : spec().outputs) {
    const auto value = values.find(output.name);
    if (value != values.end()) binding_.BindOutput(output.name.c_str(), bound(value->second));
  }
}

}  // namespace libfam
