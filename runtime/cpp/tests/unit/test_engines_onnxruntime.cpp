// Sessions of ONNX Runtime: threads, lifetimes, and what the library refuses.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engines/onnxruntime/backend.h"
#include "engines/onnxruntime/engine_folder.h"
#include "engines/onnxruntime/onnxruntime_engine.h"
#include "engines/onnxruntime/session.h"

namespace libfam {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSide = 48;

// ---- An ONNX file, field by field: y = x . x, and z = x + x, float32 [kSide, kSide].
// -------------

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}

std::string number(int field, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(field) << 3) + varint(value);
}

std::string text(int field, std::string_view content) {
  return varint((static_cast<std::uint64_t>(field) << 3) | 2) + varint(content.size()) +
         std::string(content);
}

std::string node(const char* operation, const char* output) {
  return text(1, text(1, "x") + text(1, "x") + text(2, output) + text(4, operation));
}

std::string value(const char* name) {
  const std::string side = text(1, number(1, kSide));
  return text(1, name) + text(2, text(1, number(1, 1) + text(2, side + side)));
}

std::string model() {
  const std::string graph = node("MatMul", "y") + node("Add", "z") + text(2, "g") +
                            text(11, value("x")) + text(12, value("y")) + text(12, value("z"));
  return number(1, 8) + text(8, number(2, 17)) + text(7, graph);
}

// ------------------------------------------------------------------------------------------------

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "fam-engines-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  fs::path write(const char* name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

const GraphSpec& spec() {
  static const GraphSpec known = {
      {{"x", Dtype::float32, {kSide, kSide}}},
      {{"y", Dtype::float32, {kSide, kSide}}, {"z", Dtype::float32, {kSide, kSide}}},
      0};
  return known;
}

std::unique_ptr<Engine> engine_of(const fs::path& path, Device& device,
                                  const SessionSettings& settings = {}) {
  auto environment = onnxruntime_environment();
  Ort::Session session = open_session(*environment, path, settings, nullptr, std::nullopt);
  return std::make_unique<OnnxruntimeEngine>(
      "g.onnx", spec(), OnnxruntimeEngine::Support{std::move(environment), nullptr},
      std::move(session), device, 0);
}

// x[i][j] = a on the diagonal, so that y has a * a there and z has 2 a.
HostTensor diagonal(float a) {
  HostTensor tensor = HostTensor::zeros({kSide, kSide}, Dtype::float32);
  for (std::int64_t i = 0; i < kSide; ++i) tensor.floats()[i * kSide + i] = a;
  return tensor;
}

bool run_is_right(Engine& engine, Device& device, float a) {
  const HostTensor x = diagonal(a);
  const auto outputs = run_from_host(engine, device, {{"x", x.view()}}, {"y", "z"}, {});
  return outputs.at("y").bytes == diagonal(a * a).bytes &&
         outputs.at("z").bytes == diagonal(a + a).bytes;
}

}  // namespace

TEST_CASE("engines in several threads do not disturb each other") {
  const TemporaryFolder folder;
  const fs::path path = folder.write("g.onnx", model());
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (int number_of_thread = 0; number_of_thread < 3; ++number_of_thread) {
    threads.emplace_back([&, number_of_thread] {
      const auto device = host_device();
      SessionSettings settings;
      settings.num_threads = 1 + number_of_thread % 2;
      settings.low_memory = number_of_thread == 2;
      for (int session = 0; session < 3; ++session) {
        const auto engine = engine_of(path, *device, settings);
        for (int i = 0; i < 20; ++i) {
          const auto a = static_cast<float>(number_of_thread * 100 + i + 1);
          if (run_is_right(*engine, *device, a)) ++right;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 3 * 3 * 20);
}

TEST_CASE("backends come and go in several threads") {
  std::atomic<int> opened = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 10; ++j) {
        const auto backend = open_onnxruntime_backend({});
        if (backend->describe().at(0).second == "onnxruntime") ++opened;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(opened == 30);
}

TEST_CASE("engines of one graph come and go") {
  const TemporaryFolder folder;
  const auto device = host_device();
  auto first = engine_of(folder.write("g.onnx", model()), *device);
  auto second = engine_of(folder.path() / "g.onnx", *device);
  first.reset();
  CHECK(run_is_right(*second, *device, 3));
  second.reset();
  const auto third = engine_of(folder.path() / "g.onnx", *device);
  CHECK(run_is_right(*third, *device, 5));
}

TEST_CASE("nothing of an earlier run is bound in a later one") {
  const TemporaryFolder folder;
  const auto device = host_device();
  const auto engine = engine_of(folder.write("g.onnx", model()), *device);
  HostTensor x = diagonal(2);
  HostTensor y = diagonal(0);
  HostTensor z = diagonal(0);
  engine->enqueue({{"x", x.view()}, {"y", y.view()}, {"z", z.view()}});
  CHECK(y.bytes == diagonal(4).bytes);
  z = diagonal(9);
  x = diagonal(3);
  engine->enqueue({{"x", x.view()}, {"y", y.view()}});
  CHECK(y.bytes == diagonal(9).bytes);
  CHECK(z.bytes == diagonal(9).bytes);
  // An output of one run is the input of the next, in place.
  engine->enqueue({{"x", y.view()}, {"y", x.view()}});
  CHECK(x.bytes == diagonal(81).bytes);
}

TEST_CASE("an engine can be used after a run that failed") {
  const TemporaryFolder folder;
  const auto device = host_device();
  const auto engine = engine_of(folder.write("g.onnx", model()), *device);
  const HostTensor x = diagonal(2);
  const auto run = [&](const Bindings& values) { engine->enqueue(values); };
  CHECK_THROWS_AS(run({{"y", x.view()}}), Error);
  CHECK_THROWS_AS(run({{"x", x.view()}}), Error);  // ONNX Runtime wants an output
  TensorView nowhere = x.view();
  nowhere.data = nullptr;
  CHECK_THROWS_AS(run({{"x", x.view()}, {"y", nowhere}}), std::logic_error);
  CHECK(run_is_right(*engine, *device, 2));
}

TEST_CASE("a graph file that is none raises an error") {
  const TemporaryFolder folder;
  const auto device = host_device();
  const std::string whole = model();
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, whole.size() / 2}) {
    const fs::path path = folder.write("cut.onnx", whole.substr(0, length));
    CHECK_THROWS_AS(engine_of(path, *device), Error);
  }
  CHECK_THROWS_AS(engine_of(folder.path() / "none.onnx", *device), Error);
}

TEST_CASE("what the TensorRT providers compiled lies in a folder of this user's alone") {
  const TemporaryFolder folder;
  const std::string root = (folder.path() / "new" / "cache").string();
  const std::string made = engine_folder(root, "tensorrt", "0123abcd");
  CHECK(made == root + "/onnxruntime-" + onnxruntime_version() + "-tensorrt/0123abcd");
  CHECK(fs::is_directory(made));
  CHECK(engine_folder(root, "tensorrt", "0123abcd") == made);
  for (const fs::path& part : {fs::path(made), fs::path(made).parent_path(), fs::path(root)}) {
    REQUIRE(::chmod(part.c_str(), 0777) == 0);
    CHECK_THROWS_AS(engine_folder(root, "tensorrt", "0123abcd"), Error);
    REQUIRE(::chmod(part.c_str(), 0700) == 0);
  }
  CHECK(engine_folder(root, "tensorrt", "0123abcd") == made);
}

}  // namespace libfam
