// A call's stages and decoding, stopped and failing everywhere; what is left of it.
#include <doctest/doctest.h>

#include <thread>

#include "unit/call_case.h"

namespace libfam {
namespace {

using fakes::CallCase;
using fakes::Made;

constexpr const char* kStopped = "the generation was stopped | nothing was written";

// Nothing is lent, and on the host nothing is held, whatever happened.
void check_clean(CallCase& given) {
  CHECK_NOTHROW(given.pool.close());
  CHECK(given.backend.loaded == 0);
  if (given.backend.recording.is_host()) CHECK(given.backend.recording.live.empty());
}

struct Way {
  const char* method;
  const char* native_attention;
  bool host;
  bool keep;
};

std::vector<Way> ways() {
  std::vector<Way> all;
  for (const bool host : {true, false}) {
    for (const bool keep : {true, false}) {
      all.push_back({"fam", "store", host, keep});
      all.push_back({"fam", "replay", host, keep});
      all.push_back({"direct", "auto", host, keep});
    }
  }
  return all;
}

void apply(const Way& way, CallCase& given) {
  given.request.method = method_named(way.method);
  given.request.native_attention = way.native_attention;
  given.request.am_strength = given.request.method.am_strength.value_or(0.7);
}

std::vector<ProgressEvent> events_of(CallCase& given) {
  std::vector<ProgressEvent> events;
  given.run({.on_progress = [&events](const ProgressEvent& event) {
    events.push_back(event);
    return true;
  }});
  return events;
}

TEST_CASE("the same pictures wherever, and however graphs and attention are kept") {
  CallCase first;
  const Made expected = first.run();
  CHECK(expected.rgb.size() == 6);
  CHECK(expected.rgb[0] != expected.rgb[1]);
  for (const Way& way : ways()) {
    if (std::string(way.method) != "fam") continue;
    CallCase given(way.host, way.keep);
    apply(way, given);
    CHECK(given.run() == expected);
    check_clean(given);
  }
}

TEST_CASE("a picture does not depend on its batch, nor on whether its native twin was wanted") {
  for (const char* method : {"fam", "direct", "fm"}) {
    CallCase together;
    apply({method, "store", true, true}, together);
    const Made all = together.run({}, /*native_wanted=*/false);
    for (std::size_t i = 0; i < all.rgb.size(); ++i) {
      CallCase alone;
      apply({method, "store", true, true}, alone);
      alone.request.pictures = {together.request.pictures[i]};
      CHECK(alone.run().rgb.front() == all.rgb[i]);
    }
  }
}

TEST_CASE("low memory holds one graph at a time; a replay and the decoder's tiles two") {
  CallCase stored(true, /*keep=*/false);
  stored.run();
  CHECK(stored.backend.most_loaded == 1);
  CallCase replayed(true, /*keep=*/false);
  replayed.request.native_attention = "replay";
  replayed.run();
  CHECK(replayed.backend.most_loaded == 2);
}

TEST_CASE("progress: every phase from 0 to its total, with the batch's first picture") {
  CallCase given;
  given.request.tiling = Tiling{16, 4};  // wider than the latent: one tile
  std::vector<std::string> told;
  for (const ProgressEvent& event : events_of(given)) {
    told.push_back(std::to_string(static_cast<int>(event.phase)) + ":" +
                   std::to_string(event.step) + "/" + std::to_string(event.total) + "@" +
                   std::to_string(event.picture_index));
    const bool stage = event.phase == Phase::native || event.phase == Phase::target;
    CHECK((event.timestep != 0) == (stage && event.step != 0));
    CHECK(event.latent == nullptr);
  }
  const std::vector<std::string> stages = {"2:0/4@2", "2:1/4@2", "2:2/4@2", "2:3/4@2", "2:4/4@2",
                                           "3:0/4@2", "3:1/4@2", "3:2/4@2", "3:3/4@2", "3:4/4@2",
                                           "4:0/1@2", "4:1/1@2", "4:0/1@2", "4:1/1@2"};
  REQUIRE(told.size() > stages.size());
  CHECK(std::vector<std::string>(told.end() - static_cast<std::ptrdiff_t>(stages.size()),
                                 told.end()) == stages);
}

TEST_CASE("latents are shown after each step where they are asked for") {
  CallCase given;
  int shown = 0;
  given.run({.on_progress =
                 [&shown](const ProgressEvent& event) {
                   const bool stage = event.phase == Phase::native || event.phase == Phase::target;
                   CHECK((event.latent != nullptr) == (stage && event.step != 0));
                   if (event.latent != nullptr) ++shown;
                   return true;
                 },
             .wants_latents = true});
  CHECK(shown == 16);
}

TEST_CASE("stopped at every event, and the next call works") {
  for (const Way& way : ways()) {
    CallCase given(way.host, way.keep);
    apply(way, given);
    const Made expected = given.run();
    const std::size_t count = events_of(given).size();
    for (std::size_t stop = 0; stop < count; ++stop) {
      std::size_t seen = 0;
      CHECK_THROWS_WITH_AS(
          given.run({.on_progress = [&](const ProgressEvent&) { return seen++ != stop; }}),
          kStopped, Error);
      CHECK(seen == stop + 1);
      check_clean(given);
    }
    CHECK(given.run() == expected);
  }
}

TEST_CASE("stopped by the flag, which another thread may set") {
  CallCase given;
  const Made expected = given.run();
  given.cancelled = true;
  CHECK_THROWS_WITH_AS(given.run(), kStopped, Error);
  check_clean(given);
  given.cancelled = false;
  std::atomic<bool> begun = false;
  std::thread other([&] {
    while (!begun) std::this_thread::yield();
    given.cancelled = true;
  });
  const auto endless = [&] {
    for (;;) {
      given.run({.on_progress = [&](const ProgressEvent&) { return begun = true; }});
    }
  };
  CHECK_THROWS_WITH_AS(endless(), kStopped, Error);
  other.join();
  check_clean(given);
  given.cancelled = false;
  CHECK(given.run() == expected);
}

TEST_CASE("an error of the library at every run, and the next call works") {
  for (const Way& way : ways()) {
    CallCase given(way.host, way.keep);
    apply(way, given);
    const Made expected = given.run();
    int failures = 0;
    for (int run = 0;; ++run) {
      given.backend.runs_left = run;
      try {
        given.run();
        break;  // there were fewer runs
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::backend);
        ++failures;
      }
      check_clean(given);
    }
    CHECK(failures > 20);
    given.backend.runs_left.reset();
    CHECK(given.run() == expected);
  }
}

TEST_CASE("no memory at every allocation, and the next call works") {
  for (const Way& way : ways()) {
    CallCase given(way.host, way.keep);
    apply(way, given);
    const Made expected = given.run();
    int failures = 0;
    for (std::size_t allocation = 0;; ++allocation) {
      given.loop.close();
      given.backend.recording.allocations_left = allocation;
      try {
        given.run();
        break;
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::out_of_memory);
        ++failures;
      }
      given.backend.recording.allocations_left.reset();
      check_clean(given);
    }
    CHECK(failures > 5);
    given.backend.recording.allocations_left.reset();
    CHECK(given.run() == expected);
  }
}

TEST_CASE("a callback that throws is passed on") {
  CallCase given;
  const Made expected = given.run();
  CHECK_THROWS_AS(given.run({.on_progress = [](const ProgressEvent&) -> bool { throw 7; }}), int);
  check_clean(given);
  CHECK(given.run() == expected);
}

TEST_CASE("the report says how the attention was kept, and how long it took") {
  CallCase given;
  given.run();
  const auto report = nlohmann::json::parse(given.report.json());
  CHECK(report.at("native_attention") == "store");
  // 4 steps of query and key, [2B, 5, 1] in float32, for two pictures.
  CHECK(report.at("stored_bytes") == 4 * 2 * 4 * 5 * 4);
  CHECK(report.at("memory_budget_bytes") > 0);
  CHECK(report.at("device_buffers") == 0);
  for (const char* stage : {"native", "upsample", "target", "decode", "load"}) {
    CHECK(report.at("seconds").at(stage) >= 0);
  }
}

}  // namespace
}  // namespace libfam
