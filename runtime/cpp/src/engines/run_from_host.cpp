#include <algorithm>
#include <vector>

#include "engines/engine.h"
#include "engines/feed_checks.h"

namespace libfam {
namespace {

// Memory of the device with the tensors of one run. On the host there is nothing to copy.
class Staging {
 public:
  explicit Staging(Device& device) : device_(device) {}

  TensorView uploaded(const TensorView& value) {
    if (device_.is_host()) return value;
    TensorView copy = reserved(value);
    device_.copy_to_device(copy.data, value.data, value.nbytes());
    return copy;
  }
  // Where what goes to `target` is written first.
  TensorView reserved(const TensorView& target) {
    if (device_.is_host()) return target;
    memory_.emplace_back(device_, target.nbytes());
    return {memory_.back().data(), target.shape, target.dtype};
  }
  void download(const TensorView& value, HostTensor& target) {
    if (!device_.is_host()) {
      device_.copy_to_host(target.bytes.data(), value.data, value.nbytes());
    }
  }

 private:
  Device& device_;
  std::vector<DeviceMemory> memory_;
};

}  // namespace

std::map<std::string, HostTensor> run_from_host(Engine& engine, Device& device,
                                                const std::map<std::string, TensorView>& feeds,
                                                const std::vector<std::string>& wanted,
                                                const Sizes& sizes) {
  Bindings values(feeds.begin(), feeds.end());
  check_feeds(engine.graph(), engine.spec().inputs, values);
  check_output_names(engine.graph(), wanted, engine.spec().outputs);
  device.activate();
  Staging staging(device);
  std::map<std::string, HostTensor> outputs;
  for (auto& [name, value] : values) value = staging.uploaded(value);
  for (const std::string& name : engine.required_outputs(wanted)) {
    const TensorSpec& spec = *engine.spec().output(name);
    HostTensor& output = outputs[name];
    output = HostTensor::zeros(shape_from_symbols(spec.shape, sizes), spec.dtype);
    values[name] = staging.reserved(output.view());
  }
  engine.enqueue(values);
  device.synchronize();
  std::erase_if(outputs, [&](const auto& output) {
    return std::find(wanted.begin(), wanted.end(), output.first) == wanted.end();
  });
  for (auto& [name, output] : outputs) staging.download(values.at(name), output);
  return outputs;
}

}  // namespace libfam
