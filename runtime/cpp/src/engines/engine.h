// What every backend offers: graphs of a bundle as engines that run on memory others own.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "bundle/reader.h"
#include "engines/device.h"

namespace libfam {

// Views of a device's memory by the names of a graph's inputs and outputs.
using Bindings = std::map<std::string, TensorView, std::less<>>;

// One loaded graph. Not for use by several threads at once.
class Engine {
 public:
  // `spec` must outlive the engine: it is the manifest's.
  Engine(std::string graph, const GraphSpec& spec) : graph_(std::move(graph)), spec_(spec) {}
  virtual ~Engine() = default;

  const std::string& graph() const { return graph_; }
  const GraphSpec& spec() const { return spec_; }

  // Puts one run on the device's stream: reads every input, writes the outputs that are bound.
  // Raises: Error(backend) if a feed is missing, unknown, of another dtype or of a shape that does
  // not fit the graph, or if the library failed; Error(out_of_memory).
  void enqueue(const Bindings& values);

  // Of the outputs, those that must be bound for `wanted` to be written.
  virtual std::vector<std::string> required_outputs(const std::vector<std::string>& wanted) const {
    return wanted;
  }
  // Has what runs at `sizes` ready, where a library has one engine for each.
  virtual void prepare(const Sizes& sizes) { (void)sizes; }

 protected:
  virtual void enqueue_impl(const Bindings& values) = 0;

 private:
  std::string graph_;
  const GraphSpec& spec_;
};

// An inference library on one device.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device& device() = 0;
  // Refuses a bundle that this backend cannot run.
  virtual void check_bundle(const Bundle& bundle) const { (void)bundle; }
  // Loads a graph of `bundle`, which must outlive the engine.
  virtual std::unique_ptr<Engine> load(const Bundle& bundle, const std::string& graph) = 0;
  // Name, library version and device, for a picture's settings, in this order.
  virtual std::vector<std::pair<std::string, std::string>> describe() const = 0;
};

struct BackendOptions {
  std::string name = "onnxruntime";  // or "tensorrt", "tensorrt-rtx"
  std::string provider = "cpu";      // onnxruntime: "cpu", "cuda", "tensorrt" or "tensorrt-rtx"
  int num_threads = 0;               // of an operator; 0 is one per core
  bool low_memory = false;
  int device_index = 0;
  std::string cache_dir;  // of engines; empty: the user's
};

// Raises: Error(invalid_request) for an unknown name or option; Error(backend) if its library is
// missing or was left out of this build.
std::unique_ptr<Backend> open_backend(const BackendOptions& options);

// Loaded engines: kept between calls, or one stage at a time when memory is short.
class EnginePool {
 public:
  EnginePool(Backend& backend, const Bundle& bundle, bool keep);
  ~EnginePool();

  // An engine for as long as this lives.
  class Loan {
   public:
    Loan(EnginePool& pool, std::string graph, Engine& engine);
    ~Loan();
    Loan(Loan&& other) noexcept;
    Loan& operator=(Loan&&) = delete;
    Engine& operator*() const { return *engine_; }
    Engine* operator->() const { return engine_; }

   private:
    EnginePool* pool_;
    std::string graph_;
    Engine* engine_;
  };

  Loan borrow(const std::string& graph, const Sizes& sizes = {});
  Backend& backend() const { return backend_; }
  const Bundle& bundle() const { return bundle_; }
  double load_seconds() const { return load_seconds_; }
  // Closes every engine; they are loaded again when they are needed.
  void close();

 private:
  struct Entry {
    std::unique_ptr<Engine> engine;
    int holders = 0;
  };
  void give_back(const std::string& graph) noexcept;

  Backend& backend_;
  const Bundle& bundle_;
  bool keep_;
  double load_seconds_ = 0;
  std::map<std::string, Entry> entries_;
};

// Uploads `feeds`, runs, and downloads the outputs `wanted`; for graphs that run once.
// The shapes of the outputs are the spec's with `sizes`.
std::map<std::string, HostTensor> run_from_host(Engine& engine, Device& device,
                                                const std::map<std::string, TensorView>& feeds,
                                                const std::vector<std::string>& wanted,
                                                const Sizes& sizes);

}  // namespace libfam
