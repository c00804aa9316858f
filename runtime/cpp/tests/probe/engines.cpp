#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "base/error.h"
#include "bundle/reader.h"
#include "engines/engine.h"
#include "engines/feed_checks.h"
#include "engines/free_memory.h"
#include "engines/onnxruntime/shared_weights.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

Dtype dtype_from(const std::string& name) {
  constexpr std::array<Dtype, 6> kAll = {Dtype::float32, Dtype::float16, Dtype::bfloat16,
                                         Dtype::int64,   Dtype::int32,   Dtype::boolean};
  for (const Dtype dtype : kAll) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::invalid_argument(name);
}

// Python has hashed it.
Bundle opened(const Json& in) {
  return Bundle::open(in.at("bundle").get<std::string>(), Verify::size);
}

BackendOptions options_from(const Json& in) {
  BackendOptions options;
  options.name = in.value("name", options.name);
  options.provider = in.value("provider", options.provider);
  options.num_threads = in.value("num_threads", options.num_threads);
  options.low_memory = in.value("low_memory", options.low_memory);
  options.cache_dir = in.value("cache_dir", options.cache_dir);
  return options;
}

// {"name", "dtype", "shape"}, where a dimension is an integer or a symbol.
TensorSpec spec_from(const Json& in) {
  TensorSpec spec{
      in.at("name").get<std::string>(), dtype_from(in.at("dtype").get<std::string>()), {}};
  for (const Json& dimension : in.at("shape")) {
    if (dimension.is_string()) {
      spec.shape.emplace_back(dimension.get<std::string>());
    } else {
      spec.shape.emplace_back(dimension.get<std::int64_t>());
    }
  }
  return spec;
}

std::vector<TensorSpec> specs_from(const Json& in) {
  std::vector<TensorSpec> specs;
  for (const Json& spec : in) specs.push_back(spec_from(spec));
  return specs;
}

// {"name", "dtype", "shape", "path"}, where the file holds the elements.
std::map<std::string, HostTensor> feeds_from(const Json& in) {
  std::map<std::string, HostTensor> feeds;
  for (const Json& feed : in) {
    HostTensor tensor = HostTensor::zeros(feed.at("shape").get<Shape>(),
                                          dtype_from(feed.at("dtype").get<std::string>()));
    const std::string bytes = read_bytes(feed.at("path").get<std::string>());
    if (bytes.size() != tensor.bytes.size()) throw std::invalid_argument("a feed's file");
    std::memcpy(tensor.bytes.data(), bytes.data(), bytes.size());
    feeds.emplace(feed.at("name").get<std::string>(), std::move(tensor));
  }
  return feeds;
}

std::map<std::string, TensorView> views_of(const std::map<std::string, HostTensor>& tensors) {
  std::map<std::string, TensorView> views;
  for (const auto& [name, tensor] : tensors) views.emplace(name, tensor.view());
  return views;
}

// As a stage does it: everything lies in memory of the device, and is bound there.
class BoundRun {
 public:
  BoundRun(Engine& engine, Device& device, const std::map<std::string, HostTensor>& feeds,
           const std::vector<std::string>& wanted, const Sizes& sizes)
      : device_(device) {
    for (const auto& [name, tensor] : feeds) {
      const TensorView source = tensor.view();
      device.copy_to_device(bind(name, source.shape, source.dtype), source.data, source.nbytes());
    }
    for (const std::string& name : engine.required_outputs(wanted)) {
      const TensorSpec& spec = *engine.spec().output(name);
      bind(name, shape_from_symbols(spec.shape, sizes), spec.dtype);
    }
  }

  const Bindings& values() const { return values_; }
  HostTensor downloaded(const std::string& name) {
    const TensorView& view = values_.at(name);
    HostTensor tensor = HostTensor::zeros(view.shape, view.dtype);
    device_.copy_to_host(tensor.bytes.data(), view.data, view.nbytes());
    return tensor;
  }

 private:
  void* bind(const std::string& name, const Shape& shape, Dtype dtype) {
    memory_.emplace_back(device_, bytes_of(shape, dtype));
    values_.insert_or_assign(name, TensorView{memory_.back().data(), shape, dtype});
    return memory_.back().data();
  }

  Device& device_;
  std::vector<DeviceMemory> memory_;
  Bindings values_;
};

Json written(const std::map<std::string, HostTensor>& outputs, const std::string& folder) {
  Json answer = Json::object();
  for (const auto& [name, tensor] : outputs) {
    const std::string path = folder + "/" + name;
    write_bytes(path, tensor.bytes.data(), tensor.bytes.size());
    answer[name] = {{"shape", tensor.shape}, {"dtype", name_of(tensor.dtype)}, {"path", path}};
  }
  return answer;
}

const Registration kDescribe("engines.describe", [](const Json& in) {
  Json answer = Json::array();
  for (const auto& [key, value] : open_backend(options_from(in.at("options")))->describe()) {
    answer.push_back({key, value});
  }
  return answer;
});

const Registration kRun("engines.run", [](const Json& in) {
  const Bundle bundle = opened(in);
  const auto backend = open_backend(options_from(in.at("options")));
  EnginePool pool(*backend, bundle, true);
  const auto sizes = in.at("sizes").get<Sizes>();
  const auto engine = pool.borrow(in.at("graph").get<std::string>(), sizes);
  const auto feeds = feeds_from(in.at("feeds"));
  const auto wanted = in.at("wanted").get<std::vector<std::string>>();
  std::map<std::string, HostTensor> outputs;
  if (in.at("bound").get<bool>()) {
    BoundRun run(*engine, backend->device(), feeds, wanted, sizes);
    for (int i = 0; i < 2; ++i) engine->enqueue(run.values());  // the second run writes the same
    for (const std::string& name : wanted) outputs.emplace(name, run.downloaded(name));
  } else {
    outputs = run_from_host(*engine, backend->device(), views_of(feeds), wanted, sizes);
  }
  return written(outputs, in.at("out").get<std::string>());
});

// Seconds of each of `runs` on bound memory, after a first one.
const Registration kSeconds("engines.seconds", [](const Json& in) {
  const Bundle bundle = opened(in);
  const auto backend = open_backend(options_from(in.at("options")));
  const auto engine = backend->load(bundle, in.at("graph").get<std::string>());
  BoundRun run(*engine, backend->device(), feeds_from(in.at("feeds")),
               in.at("wanted").get<std::vector<std::string>>(), in.at("sizes").get<Sizes>());
  engine->enqueue(run.values());
  std::vector<double> seconds;
  for (int i = 0; i < in.at("runs").get<int>(); ++i) {
    const auto begin = std::chrono::steady_clock::now();
    engine->enqueue(run.values());
    backend->device().synchronize();
    const auto end = std::chrono::steady_clock::now();
    seconds.push_back(std::chrono::duration<double>(end - begin).count());
  }
  return seconds;
});

const Registration kCheck("engines.check", [](const Json& in) {
  std::array<std::byte, 1> memory{};
  Bindings values;
  for (const Json& value : in.at("values")) {
    values[value.at("name").get<std::string>()] = {
        memory.data(), value.at("shape").get<Shape>(),
        dtype_from(value.at("dtype").get<std::string>())};
  }
  const auto graph = in.at("graph").get<std::string>();
  const auto inputs = specs_from(in.at("inputs"));
  if (!in.contains("outputs")) return Json(check_feeds(graph, inputs, values));
  return Json(check_bindings(graph, {inputs, specs_from(in.at("outputs")), 0}, values));
});

const Registration kOutputNames("engines.output_names", [](const Json& in) {
  check_output_names(in.at("graph").get<std::string>(),
                     in.at("wanted").get<std::vector<std::string>>(), specs_from(in.at("outputs")));
  return Json(nullptr);
});

const Registration kFreeMemory("engines.free_memory", [](const Json& in) {
  const auto free = free_host_memory_bytes(std::filesystem::path(in.at("root").get<std::string>()));
  return free ? Json(*free) : Json(nullptr);
});

const Registration kSharedWeights("engines.shared_weights", [](const Json& in) {
  const auto environment = onnxruntime_environment();
  const auto index = in.at("index").get<std::string>();
  const SharedWeights weights(in.at("weights").get<std::string>(), read_bytes(index),
                              std::filesystem::path(index).filename().string());
  return weights.size();
});

// ---- A pool, with engines that only write down what happens to them. ---------------------------

using Events = std::vector<std::string>;

class RecordedEngine final : public Engine {
 public:
  RecordedEngine(const std::string& graph, Events& events)
      : Engine(graph, no_tensors()), events_(events) {
    events_.push_back("load " + graph);
  }
  ~RecordedEngine() override { events_.push_back("close " + graph()); }

  void prepare(const Sizes& sizes) override {
    std::string event = "prepare " + graph();
    for (const auto& [symbol, size] : sizes) event += " " + symbol + "=" + std::to_string(size);
    events_.push_back(event);
    if (graph() == "unprepared") throw Error(ErrorCode::backend, {.what = "it cannot be prepared"});
  }

 protected:
  void enqueue_impl(const Bindings&) override {}

 private:
  static const GraphSpec& no_tensors() {
    static const GraphSpec empty;
    return empty;
  }
  Events& events_;
};

class RecordedBackend final : public Backend {
 public:
  Device& device() override { return *device_; }
  std::unique_ptr<Engine> load(const Bundle&, const std::string& graph) override {
    if (graph == "unloaded") throw Error(ErrorCode::out_of_memory, {.what = "it does not fit"});
    return std::make_unique<RecordedEngine>(graph, events);
  }
  std::vector<std::pair<std::string, std::string>> describe() const override { return {}; }

  Events events;

 private:
  std::unique_ptr<Device> device_ = host_device();
};

// "borrow" a graph, "give" back the loan of that number, or "close" the pool.
void play(EnginePool& pool, std::vector<std::optional<EnginePool::Loan>>& loans, const Json& step) {
  const auto what = step.at(0).get<std::string>();
  if (what == "close") return pool.close();
  if (what == "give") return loans.at(step.at(1).get<std::size_t>()).reset();
  loans.emplace_back();
  loans.back().emplace(pool.borrow(step.at(1).get<std::string>(), step.at(2).get<Sizes>()));
}

const Registration kPool("engines.pool", [](const Json& in) {
  const Bundle bundle = opened(in);
  RecordedBackend backend;
  {
    EnginePool pool(backend, bundle, in.at("keep").get<bool>());
    std::vector<std::optional<EnginePool::Loan>> loans;
    for (const Json& step : in.at("script")) {
      try {
        play(pool, loans, step);
      } catch (const Error& error) {
        backend.events.push_back(error.what());
      } catch (const std::logic_error&) {
        backend.events.push_back("in use");
      }
    }
    loans.clear();
    if (pool.load_seconds() < 0) throw std::logic_error("negative seconds");
  }
  return backend.events;
});

}  // namespace
}  // namespace libfam::probe
