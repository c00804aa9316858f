// Everything around TensorRT, on a stand-in for the library that notes down what it is asked.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engines/tensorrt/plan_check.h"
#include "engines/tensorrt/plan_engine.h"
#include "engines/tensorrt/scratch_memory.h"
#include "engines/tensorrt/tensorrt_engine.h"
#include "unit/error_of.h"

namespace libfam {
namespace {

constexpr const char* kGraph = "unet/native.onnx";

// A device on the host's memory that has only so much of it.
class SmallDevice final : public Device {
 public:
  bool is_host() const override { return false; }
  std::string name() const override { return "a small device"; }
  void* stream() override { return this; }
  void* allocate(std::size_t nbytes) override {
    if (used + nbytes > capacity) throw Error(ErrorCode::out_of_memory, {.what = "no memory"});
    auto block = std::make_unique<std::byte[]>(nbytes);
    void* address = block.get();
    blocks_[address] = {std::move(block), nbytes};
    used += nbytes;
    return address;
  }
  void free(void* address) noexcept override {
    if (address == nullptr) return;
    used -= blocks_.at(address).second;
    blocks_.erase(address);
  }
  void copy_to_device(void*, const void*, std::size_t) override {}
  void copy_to_host(void*, const void*, std::size_t) override {}
  void fill_zero(void*, std::size_t) override {}
  void synchronize() override { ++synchronized; }
  std::optional<std::size_t> free_memory_bytes() override { return capacity - used; }

  std::size_t capacity = 1 << 20;
  std::size_t used = 0;
  int synchronized = 0;

 private:
  std::map<void*, std::pair<std::unique_ptr<std::byte[]>, std::size_t>> blocks_;
};

// What the stand-in's plans do, and what they were asked; shared by all of a test.
struct Notes {
  std::vector<PlanTensor> tensors = {{"latent", "float32", {-1, 4}, true},
                                     {"step", "int64", {}, true},
                                     {"next", "float16", {-1, 8}, false},
                                     {"tap", "float16", {-1, 2}, false}};
  std::size_t scratch_bytes = 1000;
  std::string refuses;  // "load", "context", "shape", "memory" or "run"
  std::string message = "no reason given";
  std::vector<std::uint8_t> compiled;  // kernels that a run compiles

  std::vector<std::string> asked;
  std::map<std::string, void*> addresses;
  std::vector<std::uint8_t> given_kernels;
  int alive = 0;
};

class FakePlan final : public LoadedPlan {
 public:
  explicit FakePlan(Notes& notes) : notes_(notes) { ++notes_.alive; }
  ~FakePlan() override { --notes_.alive; }

  std::vector<PlanTensor> tensors() const override { return notes_.tensors; }
  std::size_t scratch_bytes() const override { return notes_.scratch_bytes; }
  bool make_context(const std::vector<std::uint8_t>& kernels) override {
    notes_.given_kernels = kernels;
    return notes_.refuses != "context";
  }
  void set_scratch(void* address, std::size_t nbytes) override {
    scratch = address;
    scratch_size = nbytes;
  }
  bool set_input_shape(const std::string& name, const Shape& shape) override {
    notes_.asked.push_back(name + "[" + std::to_string(shape.at(0)) + "]");
    return notes_.refuses != "shape";
  }
  bool set_address(const std::string& name, void* address) override {
    notes_.addresses[name] = address;
    return notes_.refuses != "memory";
  }
  bool enqueue(void* stream) override {
    CHECK(scratch != nullptr);
    CHECK(stream != nullptr);
    notes_.asked.emplace_back("run");
    return notes_.refuses != "run";
  }
  std::vector<std::uint8_t> kernels() const override { return notes_.compiled; }

  void* scratch = nullptr;
  std::size_t scratch_size = 0;

 private:
  Notes& notes_;
};

class FakeRuntime final : public PlanRuntime {
 public:
  explicit FakeRuntime(Notes& notes) : notes_(notes) {}
  const TensorrtTraits& traits() const override { return traits_of(TensorrtName::tensorrt_rtx); }
  TensorrtVersion version() const override { return {1, 7, 1, 116}; }
  std::unique_ptr<LoadedPlan> load(const void*, std::size_t) override {
    if (notes_.refuses == "load") return nullptr;
    return std::make_unique<FakePlan>(notes_);
  }
  std::string last_message() const override { return notes_.message; }
  void forget_message() override {}

 private:
  Notes& notes_;
};

// An empty folder for the cache, and what engines share.
class Bench {
 public:
  Bench() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fam-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    folder_ = pattern;
    cache = std::make_unique<EngineCache>(folder_ + "/cache");
  }
  ~Bench() { std::filesystem::remove_all(folder_); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  std::unique_ptr<PlanEngine> load(const SymbolRanges& ranges, const std::string& name = "a.plan") {
    CachedPlan plan;
    plan.name = name;
    plan.ranges = ranges;
    return std::make_unique<PlanEngine>(PlanEngine::Shared{runtime, *cache, scratch}, plan, kGraph,
                                        spec, "fam-generate …");
  }

  // Bindings of every input and output for a batch.
  Bindings bindings(std::int64_t batch) {
    return {{"latent", {memory, {batch, 4}, Dtype::float32}},
            {"step", {memory + 1, {}, Dtype::int64}},
            {"next", {memory + 2, {2 * batch, 8}, Dtype::float16}},
            {"tap", {memory + 3, {batch, 2}, Dtype::float16}}};
  }

  Notes notes;
  SmallDevice device;
  FakeRuntime runtime{notes};
  ScratchMemory scratch{device};
  std::unique_ptr<EngineCache> cache;
  GraphSpec spec{
      .inputs = {{"latent", Dtype::float32, {"B", 4}}, {"step", Dtype::int64, {}}},
      .outputs = {{"next", Dtype::float16, {"2B", 8}}, {"tap", Dtype::float16, {"B", 2}}}};
  std::byte memory[4] = {};

 private:
  std::string folder_;
};

const SymbolRanges kOneToFour = {{"B", {1, 1, 4}}};

TEST_CASE("a graph loads a plan for each range of sizes, when it is needed") {
  Bench bench;
  std::vector<Sizes> asked;
  TensorrtEngine engine(kGraph, bench.spec, bench.device, [&](const Sizes& sizes) {
    asked.push_back(sizes);
    return bench.load(sizes.at("B") <= 4 ? kOneToFour : SymbolRanges{{"B", {5, 5, 9}}});
  });
  CHECK(asked.empty());
  engine.prepare({});
  CHECK(asked.empty());
  engine.prepare({{"B", 2}});
  for (const std::int64_t batch : {1, 4, 2}) engine.enqueue(bench.bindings(batch));
  CHECK(asked == std::vector<Sizes>{{{"B", 2}}});
  engine.enqueue(bench.bindings(7));
  engine.enqueue(bench.bindings(3));
  CHECK(asked == std::vector<Sizes>{{{"B", 2}}, {{"B", 7}}});
  CHECK(engine.required_outputs({"next"}) == std::vector<std::string>{"next", "tap"});
  CHECK(bench.notes.alive == 2);
}

TEST_CASE("a graph waits for the stream before its plans go") {
  Bench bench;
  int synchronized = 0;
  {
    TensorrtEngine engine(kGraph, bench.spec, bench.device,
                          [&](const Sizes&) { return bench.load(kOneToFour); });
    engine.enqueue(bench.bindings(1));
    synchronized = bench.device.synchronized;
  }
  CHECK(bench.device.synchronized == synchronized + 1);
  CHECK(bench.notes.alive == 0);
  CHECK(bench.device.used == 0);
}

TEST_CASE("a graph whose plan cannot be loaded may be asked again") {
  Bench bench;
  TensorrtEngine engine(kGraph, bench.spec, bench.device,
                        [&](const Sizes&) { return bench.load(kOneToFour); });
  bench.notes.refuses = "load";
  CHECK_THROWS_AS(engine.prepare({{"B", 1}}), Error);
  bench.notes.refuses = "";
  engine.prepare({{"B", 1}});
  CHECK(bench.notes.alive == 1);
}

TEST_CASE("a run binds every tensor where it lies, and shapes only when they change") {
  Bench bench;
  const auto engine = bench.load(kOneToFour);
  for (const std::int64_t batch : {1, 1, 3, 3, 1}) {
    engine->enqueue(bench.bindings(batch), &bench);
  }
  CHECK(bench.notes.asked == std::vector<std::string>{"latent[1]", "run", "run", "latent[3]", "run",
                                                      "run", "latent[1]", "run"});
  for (const auto& [name, tensor] : bench.bindings(1)) {
    CHECK(bench.notes.addresses.at(name) == tensor.data);
  }
  // A shape that was refused is not taken for set.
  bench.notes.refuses = "shape";
  CHECK_THROWS_AS(engine->enqueue(bench.bindings(2), &bench), Error);
  bench.notes.refuses = "";
  bench.notes.asked.clear();
  engine->enqueue(bench.bindings(1), &bench);
  CHECK(bench.notes.asked == std::vector<std::string>{"latent[1]", "run"});
}

TEST_CASE("what the library refuses is said in words") {
  const std::string engine = "TensorRT for RTX: the engine of unet/native.onnx ";
  const std::string got = " | got 'kaputt' | expected a working engine | ";
  const std::map<std::string, std::string> words = {{"load", "cannot be loaded"},
                                                    {"context", "has no memory to run"},
                                                    {"shape", "refuses the shape (1, 4) of latent"},
                                                    {"memory", "refuses the memory of latent"},
                                                    {"run", "failed"}};
  for (const auto& [what, text] : words) {
    CAPTURE(what);
    Bench bench;
    bench.notes.refuses = what;
    bench.notes.message = "kaputt";
    const auto run = [&] { bench.load(kOneToFour)->enqueue(bench.bindings(1), &bench); };
    CHECK(error_of(run).first == ErrorCode::backend);
    CHECK_MESSAGE(error_of(run).second.starts_with(engine + text + got), error_of(run).second);
    bench.notes.message = "Error Code 2: OutOfMemory (Requested size was 4 bytes.)";
    CHECK(error_of(run).first == ErrorCode::out_of_memory);
    bench.notes.message = "cuda: out of memory";
    CHECK(error_of(run).first == ErrorCode::out_of_memory);
    CHECK(bench.notes.alive == 0);
    CHECK(bench.device.used == 0);
  }
  Bench bench;
  bench.notes.refuses = "load";
  CHECK(error_of([&] { bench.load(kOneToFour); })
            .second.ends_with("| delete " + bench.cache->store().root() +
                              "/a.plan, and build it again: fam-generate …"));
}

TEST_CASE("a plan of another graph is refused") {
  const Notes right;
  struct Case {
    std::function<void(std::vector<PlanTensor>&)> change;
    std::string words;
  };
  const std::vector<Case> cases = {
      {[](auto& tensors) { tensors[0].dtype = "float16"; },
       "an input is not what the manifest says | got ('latent', 'float16', (-1, 4)) | expected "
       "('latent', 'float32', (-1, 4)) | do it"},
      {[](auto& tensors) { tensors[1].shape = {1}; },
       "an input is not what the manifest says | got ('step', 'int64', (1,)) | expected ('step', "
       "'int64', ()) | do it"},
      {[](auto& tensors) { tensors.erase(tensors.begin() + 3); },
       "an output is not what the manifest says | got '1 of them' | expected 2 | do it"},
      {[](auto& tensors) { tensors.push_back({"more", "INT8", {1}, true}); },
       "an input is not what the manifest says | got '3 of them' | expected 2 | do it"},
      {[](auto& tensors) { tensors[3].name = "pat"; },
       "an output is not what the manifest says | got ('pat', 'float16', (-1, 2)) | expected "
       "('tap', 'float16', (-1, 2)) | do it"},
      {[](auto& tensors) { tensors[0].is_input = false; },
       "an input is not what the manifest says | got ('step', 'int64', ()) | expected ('latent', "
       "'float32', (-1, 4)) | do it"},
  };
  const Bench bench;
  for (const Case& wrong : cases) {
    std::vector<PlanTensor> tensors = right.tensors;
    wrong.change(tensors);
    const auto [code, text] =
        error_of([&] { check_plan(kGraph, bench.spec, kOneToFour, tensors, "do it"); });
    CHECK(code == ErrorCode::backend);
    CHECK(text == "engine of unet/native.onnx: " + wrong.words);
  }
  // The library's order is its own, and what has one size is written so.
  std::vector<PlanTensor> tensors = right.tensors;
  std::ranges::reverse(tensors);
  check_plan(kGraph, bench.spec, kOneToFour, tensors, "");
  for (PlanTensor& tensor : tensors) {
    if (!tensor.shape.empty()) tensor.shape[0] = tensor.name == "next" ? 6 : 3;
  }
  check_plan(kGraph, bench.spec, {{"B", {3, 3, 3}}}, tensors, "");
  CHECK(dynamic_inputs(tensors).empty());
  CHECK(dynamic_inputs(right.tensors) == std::vector<std::string>{"latent"});
}

TEST_CASE("plans share one block of scratch memory, as large as the neediest needs") {
  Bench bench;
  bench.notes.scratch_bytes = 1000;
  FakePlan small(bench.notes);
  bench.scratch.join(small);
  CHECK(small.scratch_size >= 1000);
  CHECK(bench.device.used == small.scratch_size);
  bench.notes.scratch_bytes = 5000;
  FakePlan large(bench.notes);
  bench.scratch.join(large);
  CHECK(small.scratch == large.scratch);
  CHECK(small.scratch_size == large.scratch_size);
  CHECK(bench.device.used == large.scratch_size);
  CHECK(bench.device.synchronized == 2);  // what runs on the old block ends first
  bench.notes.scratch_bytes = 0;
  FakePlan none(bench.notes);
  bench.scratch.join(none);
  CHECK(none.scratch == large.scratch);
  bench.scratch.leave(large);
  bench.scratch.leave(small);
  CHECK(bench.device.used != 0);
  bench.scratch.leave(none);
  CHECK(bench.device.used == 0);
  CHECK_THROWS_AS(bench.scratch.check(), Error);
}

TEST_CASE("where scratch memory cannot grow, the plans that are there go on") {
  Bench bench;
  bench.device.capacity = 6000;
  bench.notes.scratch_bytes = 4000;
  FakePlan first(bench.notes);
  bench.scratch.join(first);
  bench.notes.scratch_bytes = 7000;
  FakePlan second(bench.notes);
  CHECK(error_of([&] { bench.scratch.join(second); }).first == ErrorCode::out_of_memory);
  CHECK(first.scratch != nullptr);
  CHECK(first.scratch_size >= 4000);
  CHECK(bench.device.used == first.scratch_size);
  bench.scratch.check();
  // Both need not fit at once.
  bench.notes.scratch_bytes = 5000;
  FakePlan third(bench.notes);
  bench.scratch.join(third);
  CHECK(first.scratch == third.scratch);
  // What was there cannot be had back: then nobody runs on it.
  bench.device.capacity = 100;
  bench.notes.scratch_bytes = 5500;
  FakePlan fourth(bench.notes);
  CHECK(error_of([&] { bench.scratch.join(fourth); }).first == ErrorCode::out_of_memory);
  CHECK(error_of([&] { bench.scratch.check(); }).second ==
        "the engines lost their scratch memory when it had to grow | expected free memory on the "
        "GPU | free memory on the GPU, and load the bundle again");
  // A later one has it again, for all.
  bench.device.capacity = 6000;
  bench.scratch.join(fourth);
  CHECK(first.scratch == fourth.scratch);
}

TEST_CASE("an engine that cannot have its scratch memory leaves nothing behind") {
  Bench bench;
  bench.device.capacity = 10;
  CHECK(error_of([&] { bench.load(kOneToFour); }).first == ErrorCode::out_of_memory);
  CHECK(bench.notes.alive == 0);
  bench.device.capacity = 1 << 20;
  bench.load(kOneToFour)->enqueue(bench.bindings(1), &bench);
}

TEST_CASE("compiled kernels are kept for the next time") {
  Bench bench;
  bench.notes.compiled = {1, 2, 3};
  bench.load(kOneToFour, "folder/a.plan");
  CHECK(bench.notes.given_kernels.empty());
  bench.load(kOneToFour, "folder/a.plan");
  CHECK(bench.notes.given_kernels == std::vector<std::uint8_t>{1, 2, 3});
  bench.load(kOneToFour, "folder/b.plan");
  CHECK(bench.notes.given_kernels.empty());
}

TEST_CASE("kernels that cannot be kept stop nothing") {
  Bench bench;
  bench.notes.compiled = {1, 2, 3};
  {
    const auto engine = bench.load(kOneToFour, "folder/a.plan");
    std::filesystem::create_directory(bench.cache->store().root());
    std::filesystem::permissions(bench.cache->store().root(), std::filesystem::perms::all);
  }
  CHECK_FALSE(std::filesystem::exists(bench.cache->store().path_of("folder")));
}

}  // namespace
}  // namespace libfam
