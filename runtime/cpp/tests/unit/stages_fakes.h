// A step graph in plain C++, and a device that remembers what was done on it.
//
// The "UNet" is element-wise, so that everything the runtime decides is visible in its result:
// noise, coefficients, guidance, kernels, taps, conditions. tests/cpp/test_stages.py has the same
// in NumPy.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bundle/contract.h"
#include "engines/engine.h"
#include "noise/noise_source.h"
#include "sampling/stage_inputs.h"

namespace libfam::fakes {

using Values = std::vector<float>;
using NamedValues = std::map<std::string, Values, std::less<>>;

inline const std::vector<std::string>& tap_names() {
  static const std::vector<std::string> names = contract::tap_names("a", "qk");
  return names;
}

// One denoising step on plain vectors; taps are made where the graph has no reference.
inline NamedValues step_of(const NamedValues& fed, std::size_t batch, std::size_t tap_size) {
  const Values& c = fed.at(contract::kStepCoefficients);
  const Values& z = fed.at(contract::kLatent);
  const Values& text = fed.at(contract::kPromptEmbeds);
  const float t = fed.at(contract::kTimestep)[0] * 0.001f;
  const bool target = fed.count(contract::kReferenceLatent) != 0;
  const std::size_t size = z.size() / batch;
  Values prediction(z.size());
  Values next(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    const std::size_t picture = i / size;
    float latent = z[i];
    if (target) {
      const Values& rows = fed.at(contract::kFmKernelRows);
      const Values& columns = fed.at(contract::kFmKernelColumns);
      const float kernel = rows[i / columns.size() % rows.size()] * columns[i % columns.size()];
      const float reference = c[contract::kReferenceSignal] * fed.at(contract::kReferenceLatent)[i];
      const float noised = reference + c[contract::kReferenceNoiseCoefficient] *
                                           fed.at(contract::kReferenceNoise)[i];
      latent += fed.at(contract::kFmWeight)[0] * kernel * (noised - latent);
    }
    float m = c[contract::kModelInputScale] * latent + t;
    m += fed.at(contract::kGuidanceScale)[0] * text[(batch + picture) * (text.size() / batch / 2)];
    if (target) {
      const std::size_t at = picture * tap_size + i % size % tap_size;
      const float native = fed.at(tap_names()[0])[at] * fed.at(tap_names()[1])[at];
      m += fed.at(contract::kAmStrength)[0] * (native - m);
    }
    prediction[i] =
        c[contract::kPredictionFromLatent] * latent + c[contract::kPredictionFromOutput] * m;
    next[i] = c[contract::kNextFromLatent] * latent + c[contract::kNextFromOutput] * m +
              c[contract::kNextFromPrevious] * fed.at(contract::kPreviousPrediction)[i] +
              c[contract::kNextFromNoise] * fed.at(contract::kStepNoise)[i];
  }
  NamedValues made = {{contract::kNextLatent, next}, {contract::kPrediction, prediction}};
  if (target) return made;
  Values query(2 * batch * tap_size);
  Values key(query.size());
  for (std::size_t i = 0; i < query.size(); ++i) {
    const std::size_t at = i / tap_size % batch * size + i % tap_size;
    query[i] = z[at] * 0.1f;
    key[i] = z[at] + t;
  }
  made[tap_names()[0]] = query;
  made[tap_names()[1]] = key;
  return made;
}

// What was done on a device, in order.
struct Event {
  enum class Kind { allocate, free, upload, download, zero, run };
  Kind kind;
  std::string graph = "";  // of a run
  Bindings bound = {};
};

struct Log {
  std::vector<Event> events;

  std::vector<Event> runs(const std::string& graph) const {
    std::vector<Event> found;
    for (const Event& event : events) {
      if (event.kind == Event::Kind::run && event.graph == graph) found.push_back(event);
    }
    return found;
  }
  std::size_t count(Event::Kind kind) const {
    std::size_t found = 0;
    for (const Event& event : events) found += event.kind == kind ? 1u : 0u;
    return found;
  }
};

// The host's memory, as the host or as a GPU would have it, full of NaN when it is new.
class RecordingDevice final : public Device {
 public:
  explicit RecordingDevice(bool host, std::size_t total = std::size_t{1} << 30)
      : host_(host), total_(total) {}

  bool is_host() const override { return host_; }
  std::string name() const override { return "a device that is none"; }
  void* allocate(std::size_t nbytes) override {
    log.events.push_back({Event::Kind::allocate});
    if (allocations_left && (*allocations_left)-- == 0) {
      allocations_left.reset();
      throw Error(ErrorCode::out_of_memory, {.what = "no memory"});
    }
    auto block = std::make_unique<std::byte[]>(nbytes + kDeviceAlignment);
    std::memset(block.get(), 0xFF, nbytes + kDeviceAlignment);
    void* address = block.get();
    std::size_t space = nbytes + kDeviceAlignment;
    std::align(kDeviceAlignment, nbytes, address, space);
    live[address] = nbytes;
    blocks_[address] = std::move(block);
    peak = std::max(peak, live_bytes());
    return address;
  }
  void free(void* address) noexcept override {
    log.events.push_back({Event::Kind::free});
    live.erase(address);
    blocks_.erase(address);
  }
  void copy_to_device(void* target, const void* source, std::size_t nbytes) override {
    log.events.push_back({Event::Kind::upload});
    if (nbytes != 0) std::memcpy(target, source, nbytes);
  }
  void copy_to_host(void* target, const void* source, std::size_t nbytes) override {
    log.events.push_back({Event::Kind::download});
    if (nbytes != 0) std::memcpy(target, source, nbytes);
  }
  void fill_zero(void* address, std::size_t nbytes) override {
    log.events.push_back({Event::Kind::zero});
    if (nbytes != 0) std::memset(address, 0, nbytes);
  }
  void synchronize() override {}
  std::optional<std::size_t> free_memory_bytes() override { return total_ - live_bytes(); }
  std::optional<std::size_t> total_memory_bytes() override { return total_; }

  std::size_t live_bytes() const {
    std::size_t sum = 0;
    for (const auto& [address, nbytes] : live) sum += nbytes;
    return sum;
  }

  Log log;
  std::map<void*, std::size_t> live;
  std::size_t peak = 0;
  std::optional<std::size_t> allocations_left;  // then one fails

 private:
  bool host_;
  std::size_t total_;
  std::map<void*, std::unique_ptr<std::byte[]>> blocks_;
};

class FakeEngine final : public Engine {
 public:
  FakeEngine(std::string graph, const GraphSpec& spec, Log* log = nullptr)
      : Engine(std::move(graph), spec), log_(log) {}

  std::vector<std::string> required_outputs(const std::vector<std::string>& wanted) const override {
    if (!every_output) return wanted;
    std::vector<std::string> names;
    for (const TensorSpec& output : spec().outputs) names.push_back(output.name);
    return names;
  }

  bool every_output = false;
  std::optional<std::size_t> runs_left;  // then one fails
  std::vector<NamedValues> fed;          // what each run read

 protected:
  void enqueue_impl(const Bindings& bound) override {
    if (log_ != nullptr) log_->events.push_back({Event::Kind::run, graph(), bound});
    if (runs_left && (*runs_left)-- == 0) throw Error(ErrorCode::backend, {.what = "it failed"});
    NamedValues read;
    for (const TensorSpec& input : spec().inputs) {
      read[input.name] = values_of(bound.at(input.name));
    }
    const auto batch = static_cast<std::size_t>(bound.at(contract::kLatent).shape.at(0));
    for (const auto& [name, values] : step_of(read, batch, tap_size())) {
      const auto found = bound.find(name);
      if (found == bound.end()) continue;
      if (values.size() * sizeof(float) != found->second.nbytes()) {
        throw std::logic_error("an output has another size");
      }
      std::memcpy(found->second.data, values.data(), found->second.nbytes());
    }
    fed.push_back(std::move(read));
  }

 private:
  // Elements of one row of a tap tensor.
  std::size_t tap_size() const {
    const TensorSpec* tap = spec().input(tap_names()[0]);
    if (tap == nullptr) tap = spec().output(tap_names()[0]);
    std::int64_t size = 1;
    for (std::size_t i = 1; i < tap->shape.size(); ++i)
      size *= std::get<std::int64_t>(tap->shape[i]);
    return static_cast<std::size_t>(size);
  }

  static Values values_of(const TensorView& view) {
    Values values(static_cast<std::size_t>(element_count(view.shape)));
    if (view.dtype == Dtype::float32) {
      std::memcpy(values.data(), view.data, view.nbytes());
      return values;
    }
    // Of another type there are only zeros here.
    const auto* bytes = static_cast<const unsigned char*>(view.data);
    for (std::size_t i = 0; i < view.nbytes(); ++i) {
      if (bytes[i] != 0) throw std::logic_error("a tap is not zero");
    }
    return values;
  }

  Log* log_;
};

// Any stream that two runs can have alike: -1 .. 1 from a linear congruential generator.
class FakeNoise final : public NoiseSource {
 public:
  explicit FakeNoise(std::uint32_t seed) : state_(seed) {}
  std::vector<float> normal(const Shape& shape) override {
    Values values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) {
      state_ = state_ * 1664525u + 1013904223u;
      value = static_cast<float>(state_ >> 8) / 8388608.0f - 1.0f;
    }
    return values;
  }

 private:
  std::uint32_t state_;
};

inline PictureNoise noise_of(std::size_t batch) {
  std::vector<std::unique_ptr<NoiseSource>> sources;
  for (std::size_t i = 0; i < batch; ++i) {
    sources.push_back(std::make_unique<FakeNoise>(static_cast<std::uint32_t>(7 + i)));
  }
  return PictureNoise(std::move(sources));
}

}  // namespace libfam::fakes
