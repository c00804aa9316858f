// Cancelling at every moment: nothing leaks (the leak sanitizer looks at the end), and the next
// picture is the right one.
#include <doctest/doctest.h>

#include <stdexcept>

#include "api/bundle.h"

namespace {

int count_events(fam::Pipeline& pipeline, fam::Request request) {
  int events = 0;
  request.progress = [&](const fam::Progress&) {
    ++events;
    return true;
  };
  pipeline.generate(request);
  return events;
}

}  // namespace

TEST_CASE("cancelling at every event") {
  fam::Pipeline pipeline(test_bundle(), one_thread());
  for (const char* attention : {"store", "replay"}) {
    fam::Request request = small_request(3);
    request.native_attention = attention;
    request.watch_latents = true;
    const std::string expected = rgb_of(pipeline.generate(request));
    const int events = count_events(pipeline, request);
    REQUIRE(events > 6);
    for (int stop = 0; stop < events; ++stop) {
      int seen = 0;
      fam::Request stopped = request;
      stopped.progress = [&](const fam::Progress&) { return seen++ < stop; };
      try {
        pipeline.generate(stopped);
        FAIL("not cancelled");
      } catch (const fam::Error& error) {
        CHECK(error.status() == FAM_ERROR_CANCELLED);
      }
    }
    CHECK(rgb_of(pipeline.generate(request)) == expected);
  }
}

TEST_CASE("cancelling with low memory, where graphs come and go") {
  fam::PipelineOptions options = one_thread();
  options.low_memory = true;
  fam::Pipeline pipeline(test_bundle(), options);
  const int events = count_events(pipeline, small_request());
  for (int stop = 0; stop < events; ++stop) {
    int seen = 0;
    fam::Request stopped = small_request();
    stopped.progress = [&](const fam::Progress&) { return seen++ < stop; };
    CHECK_THROWS_AS(pipeline.generate(stopped), fam::Error);
  }
}

TEST_CASE("what a callback throws comes out of the call") {
  fam::Pipeline pipeline(test_bundle(), one_thread());
  fam::Request request = small_request();
  request.progress = [](const fam::Progress&) -> bool { throw std::out_of_range("mine"); };
  CHECK_THROWS_WITH_AS(pipeline.generate(request), "mine", std::out_of_range);
  request.progress = {};
  CHECK(pipeline.generate(request).size() == 1);
}

TEST_CASE("stopping the check of a bundle") {
  fam::PipelineOptions options = one_thread();
  int seen = 0;
  options.progress = [&](const fam::Progress& progress) {
    CHECK(progress.phase == FAM_PHASE_CHECKING);
    return seen++ < 3;
  };
  CHECK_THROWS_AS(fam::Pipeline(test_bundle(), options), fam::Error);
}
