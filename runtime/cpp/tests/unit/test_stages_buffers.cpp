// Who writes and reads which memory, and what is copied (docs/buffer_plan.md).
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "base/error.h"
#include "sampling/native_attention.h"
#include "unit/stages_case.h"

namespace libfam {
namespace {

using fakes::Case;
using fakes::Event;
using fakes::kNative;
using fakes::kTarget;

constexpr std::size_t kSteps = 5;

std::vector<void*> addresses(const std::vector<Event>& runs, const std::string& name) {
  std::vector<void*> found;
  for (const Event& run : runs) found.push_back(run.bound.at(name).data);
  return found;
}

std::set<void*> distinct(const std::vector<void*>& all) { return {all.begin(), all.end()}; }

std::ptrdiff_t distance(void* from, void* to) {
  return static_cast<std::byte*>(to) - static_cast<std::byte*>(from);
}

// The runs of both graphs in a second batch.
struct Recorded {
  Recorded(Case& given, NativeAttention attention) {
    given.run(attention);
    given.device.log.events.clear();
    given.run(attention);
    native = given.device.log.runs(kNative);
    target = given.device.log.runs(kTarget);
  }
  std::vector<Event> native;
  std::vector<Event> target;
};

class Shown final : public StepObserver {
 public:
  explicit Shown(bool latents) : latents_(latents) {}
  bool wants_latents() const override { return latents_; }
  void after_step(Stage, std::size_t, const StepPlan&, const HostTensor*) override {}

 private:
  bool latents_;
};

TEST_CASE("stages: nothing is copied between the steps of a stage but what an observer is shown") {
  for (const NativeAttention attention : {NativeAttention::store, NativeAttention::replay}) {
    for (const bool noisy : {false, true}) {
      for (const int watched : {0, 1, 2}) {
        Case given(false, std::vector<bool>(kSteps, noisy));
        Shown observer(watched == 2);
        if (watched != 0) given.observer = &observer;
        const Recorded recorded(given, attention);
        const auto& events = given.device.log.events;
        std::size_t downloads = 0;
        std::size_t in_stage = 0;
        for (const char* graph : {kNative, kTarget}) {
          const auto is_run = [&](const Event& event) { return event.graph == graph; };
          const auto first = std::ranges::find_if(events, is_run);
          auto last = first;
          for (std::size_t i = 1; i < kSteps; ++i) {
            last = std::find_if(last + 1, events.end(), is_run);
          }
          for (auto event = first; event != last; ++event) {
            if (event->kind == Event::Kind::run) continue;
            ++in_stage;
            downloads += event->kind == Event::Kind::download ? 1u : 0u;
          }
        }
        CHECK(in_stage == downloads);
        CHECK(downloads == (watched == 2 ? 2 * (kSteps - 1) : 0));
      }
    }
  }
}

TEST_CASE("stages: uploads do not grow with the steps, but for noise") {
  for (const char* method : {"fam", "direct"}) {
    std::vector<std::size_t> counts;
    for (const std::size_t steps : {std::size_t{2}, std::size_t{7}}) {
      Case given(false, {}, steps);
      given.method = method;
      given.run(NativeAttention::none);
      counts.push_back(given.device.log.count(Event::Kind::upload));
    }
    CHECK(counts[0] == counts[1]);
  }
}

TEST_CASE("stages: the target reads taps where the native stage wrote them") {
  for (const bool host : {true, false}) {
    Case given(host);
    const Recorded recorded(given, NativeAttention::store);
    for (const std::string& name : fakes::tap_names()) {
      const auto written = addresses(recorded.native, name);
      CHECK(addresses(recorded.target, name) == written);
      CHECK(distinct(written).size() == kSteps);
    }
  }
}

TEST_CASE("stages: a replay reads the trajectory in place and writes the target's input") {
  for (const bool every_output : {false, true}) {
    Case given(false);
    given.native_engine.every_output = every_output;
    const Recorded recorded(given, NativeAttention::replay);
    const std::vector<Event> native(recorded.native.begin(), recorded.native.begin() + kSteps);
    const std::vector<Event> again(recorded.native.begin() + kSteps, recorded.native.end());
    REQUIRE(again.size() == kSteps);
    CHECK(addresses(again, contract::kLatent) == addresses(native, contract::kLatent));
    auto trajectory = distinct(addresses(native, contract::kLatent));
    trajectory.merge(distinct(addresses(native, contract::kNextLatent)));
    for (const std::string& name : fakes::tap_names()) {
      CHECK(addresses(again, name) == addresses(recorded.target, name));
      CHECK(distinct(addresses(again, name)).size() == 1);
    }
    for (const Event& run : again) {
      CHECK(run.bound.at(contract::kPreviousPrediction).data ==
            run.bound.at(contract::kStepNoise).data);
      CHECK(run.bound.count(contract::kNextLatent) == (every_output ? 1 : 0));
      CHECK(run.bound.count(contract::kPrediction) == (every_output ? 1 : 0));
      if (every_output) CHECK(trajectory.count(run.bound.at(contract::kNextLatent).data) == 0);
    }
    std::string order;
    for (const Event& event : given.device.log.events) {
      if (event.kind == Event::Kind::run) order += event.graph == kNative ? 'n' : 't';
    }
    CHECK(order == "nnnnnntntntntnt");
  }
}

TEST_CASE("stages: without attention modulation the taps are zeros and not kept") {
  Case given(false);
  given.native_engine.every_output = true;
  const Recorded recorded(given, NativeAttention::none);
  for (const std::string& name : fakes::tap_names()) {
    auto all = distinct(addresses(recorded.native, name));
    all.merge(distinct(addresses(recorded.target, name)));
    CHECK(all.size() == 1);  // one scratch slot
    for (const float value : given.target_engine.fed.back().at(name)) CHECK(value == 0);
  }
  Case lean(false);
  const Recorded without(lean, NativeAttention::none);
  CHECK(without.native.at(0).bound.count(fakes::tap_names()[0]) == 0);
}

TEST_CASE("stages: latents and predictions take turns") {
  Case given(false);
  const Recorded recorded(given, NativeAttention::store);
  for (const auto& [runs, count] :
       {std::pair{&recorded.native, kSteps + 1}, std::pair{&recorded.target, std::size_t{2}}}) {
    const auto read = addresses(*runs, contract::kLatent);
    const auto written = addresses(*runs, contract::kNextLatent);
    CHECK(std::equal(read.begin() + 1, read.end(), written.begin()));
    auto all = distinct(read);
    all.merge(distinct(written));
    CHECK(all.size() == count);
    const auto before = addresses(*runs, contract::kPreviousPrediction);
    const auto after = addresses(*runs, contract::kPrediction);
    CHECK(std::equal(before.begin() + 1, before.end(), after.begin()));
    auto predictions = distinct(before);
    predictions.merge(distinct(after));
    CHECK(predictions.size() == 2);
  }
}

TEST_CASE("stages: rows of tables lie in slots, and conditions stay at one address") {
  Case given(false, std::vector<bool>(kSteps, true));
  const Recorded recorded(given, NativeAttention::store);
  const std::set<std::string> rows = {contract::kTimestep,     contract::kStepCoefficients,
                                      contract::kFmKernelRows, contract::kFmKernelColumns,
                                      contract::kFmWeight,     contract::kStepNoise};
  const std::set<std::string> constants = {contract::kPromptEmbeds, contract::kGuidanceScale,
                                           contract::kReferenceLatent, contract::kReferenceNoise,
                                           contract::kAmStrength};
  for (const auto* runs : {&recorded.native, &recorded.target}) {
    for (const auto& [name, view] : runs->front().bound) {
      const auto at = addresses(*runs, name);
      const auto slot = static_cast<std::ptrdiff_t>(aligned(view.nbytes()));
      if (rows.count(name) != 0) {
        for (std::size_t i = 1; i < at.size(); ++i) CHECK(distance(at[i - 1], at[i]) == slot);
      }
      if (constants.count(name) != 0) CHECK(distinct(at).size() == 1);
      CHECK(reinterpret_cast<std::uintptr_t>(view.data) % kDeviceAlignment == 0);
    }
  }
}

TEST_CASE("stages: noise rows in the order of the steps that need one, zeros behind them") {
  Case given(false, {true, false, true, true, false});
  const Recorded recorded(given, NativeAttention::store);
  for (const auto* runs : {&recorded.native, &recorded.target}) {
    const auto at = addresses(*runs, contract::kStepNoise);
    const auto slot =
        static_cast<std::ptrdiff_t>(aligned(runs->front().bound.at(contract::kStepNoise).nbytes()));
    CHECK(distance(at[0], at[2]) == slot);
    CHECK(distance(at[0], at[3]) == 2 * slot);
    CHECK(distance(at[0], at[1]) == 3 * slot);
    CHECK(at[1] == at[4]);
  }
}

TEST_CASE("stages: on a device a second call finds every address again, until something grows") {
  Case given(false);
  const auto bound = [&] {
    given.device.log.events.clear();
    given.run(NativeAttention::store);
    std::set<std::pair<std::string, void*>> found;
    for (const char* graph : {kNative, kTarget}) {
      for (const Event& run : given.device.log.runs(graph)) {
        for (const auto& [name, view] : run.bound) found.emplace(graph + name, view.data);
      }
    }
    return found;
  };
  const auto first = bound();
  CHECK(bound() == first);
  CHECK(given.device.log.count(Event::Kind::allocate) == 0);
  given.batch = 3;
  const auto grown = bound();
  CHECK(given.device.log.count(Event::Kind::allocate) > 0);
  given.batch = 2;
  bound();
  CHECK(given.device.log.count(Event::Kind::allocate) == 0);
  given.batch = 3;
  CHECK(bound() == grown);
}

TEST_CASE("stages: what is reserved is what is taken") {
  for (const NativeAttention attention :
       {NativeAttention::none, NativeAttention::replay, NativeAttention::store}) {
    Case given(false, {true, false, true, false, false});
    const std::vector<StageShape> stages = {
        stage_shape(Stage::target, given.target_spec, 2, given.plan.steps, fakes::tap_names(),
                    attention),
        stage_shape(Stage::native, given.native_spec, 2, given.plan.steps, fakes::tap_names(),
                    attention)};
    const std::size_t reserved = given.loop.reserve(stages);
    CHECK(reserved == plan_buffers(stages, false).nbytes());
    CHECK(reserved == given.device.live_bytes());
    CHECK(reserved == given.loop.buffer_bytes());
    given.run(attention);
    CHECK(given.device.live_bytes() == reserved);
    given.loop.close();
    CHECK(given.device.live.empty());
  }
}

TEST_CASE("stages: what two stages share is as large as the larger need") {
  Case given(true);
  const auto shape = [&](std::int64_t batch) {
    return stage_shape(Stage::target, given.target_spec, batch, given.plan.steps,
                       fakes::tap_names(), NativeAttention::replay);
  };
  const std::size_t large = plan_buffers({shape(9)}, false).nbytes();
  CHECK(large > plan_buffers({shape(1)}, false).nbytes());
  CHECK(plan_buffers({shape(1), shape(9)}, false).nbytes() == large);
  CHECK(plan_buffers({shape(9), shape(1)}, false).nbytes() == large);
}

// Bytes on the device when each of the target's steps runs.
class TakenBytes final : public StepObserver {
 public:
  explicit TakenBytes(const fakes::RecordingDevice& device) : device_(device) {}
  void after_step(Stage stage, std::size_t, const StepPlan&, const HostTensor*) override {
    if (stage == Stage::target) bytes.push_back(device_.live_bytes());
  }
  std::vector<std::size_t> bytes;

 private:
  const fakes::RecordingDevice& device_;
};

TEST_CASE("stages: the host frees the taps of a step when they were used, a device keeps them") {
  for (const bool host : {true, false}) {
    Case given(host);
    TakenBytes observer(given.device);
    given.observer = &observer;
    given.run(NativeAttention::store);
    const auto spec = *given.native_spec.output(fakes::tap_names()[0]);
    const std::size_t taps =
        2 * aligned(bytes_of(shape_from_symbols(spec.shape, {{"B", 2}}), spec.dtype));
    REQUIRE(observer.bytes.size() == kSteps);
    for (std::size_t i = 1; i < kSteps; ++i) {
      CHECK(observer.bytes[i - 1] - observer.bytes[i] == (host ? taps : 0));
    }
    CHECK(given.device.live.empty() == host);
  }
}

TEST_CASE("stages: on the host nothing is reserved for later, and nothing stays") {
  Case given(true);
  CHECK(given.loop.reserve({stage_shape(Stage::native, given.native_spec, 1, given.plan.steps, {},
                                        NativeAttention::none)}) == 0);
  given.loop.end_batch();
  CHECK(given.device.live.empty());
}

TEST_CASE("stages: what does not fit on a device is said before the first step") {
  Case known(false);
  const std::vector<StageShape> stages = {
      stage_shape(Stage::target, known.target_spec, 2, known.plan.steps, fakes::tap_names(),
                  NativeAttention::store),
      stage_shape(Stage::native, known.native_spec, 2, known.plan.steps, fakes::tap_names(),
                  NativeAttention::store)};
  const std::size_t needed = plan_buffers(stages, false).nbytes();
  Case fits(false, {}, kSteps, needed);
  CHECK_NOTHROW(fits.run(NativeAttention::store));
  CHECK_NOTHROW(fits.run(NativeAttention::store));  // what is held counts as room
  Case grows(false, {}, kSteps, needed);
  grows.batch = 1;
  grows.run(NativeAttention::store);
  grows.batch = 2;
  CHECK_NOTHROW(grows.run(NativeAttention::store));  // so does what is given up for it
  Case large(false, {}, kSteps, needed - 1);
  CHECK_THROWS_WITH_AS(
      large.run(NativeAttention::store),
      "the buffers of this call do not fit on a device that is none | got '0 MiB to take, of 0 in "
      "all' | expected at most 0 MiB; 0 of 0 MiB are free | native_attention='replay', fewer "
      "pictures_per_batch, or a smaller size",
      Error);
  CHECK(large.device.live.empty());
  CHECK(large.native_engine.fed.empty());
}

TEST_CASE("stages: dimensions that no memory has are refused, not computed with") {
  Case given(true);
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  for (TensorSpec& input : given.target_spec.inputs) {
    if (input.name == contract::kPromptEmbeds) input.shape = {"2B", kHuge, kHuge, kHuge};
  }
  const auto shape = stage_shape(Stage::target, given.target_spec, 1, given.plan.steps,
                                 fakes::tap_names(), NativeAttention::none);
  CHECK_THROWS_WITH_AS(plan_buffers({shape}, false), doctest::Contains("is too large"), Error);
  const TensorSpec tap = {"t", Dtype::float16, {"2B", kHuge, kHuge, std::int64_t{1}}};
  CHECK(stored_bytes({tap, tap}, {{"B", 1}}, 50) == std::numeric_limits<std::uint64_t>::max());
}

}  // namespace
}  // namespace libfam
