// Threads: pipelines are independent, one pipeline takes one call at a time, and cancelling is for
// everybody. ThreadSanitizer looks on.
#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "api/bundle.h"

TEST_CASE("two pipelines in two threads") {
  const auto make = [](std::uint64_t seed) {
    fam::Pipeline pipeline(test_bundle(), one_thread());
    fam::Request request = small_request();
    request.seed = seed;
    std::string rgb;
    for (int i = 0; i < 3; ++i) rgb = rgb_of(pipeline.generate(request));
    return rgb;
  };
  auto first = std::async(std::launch::async, make, 1);
  auto second = std::async(std::launch::async, make, 2);
  const std::string one = first.get();
  const std::string two = second.get();
  CHECK(one != two);
  CHECK(one == make(1));
  CHECK(two == make(2));
}

TEST_CASE("a second call is refused while the first one runs") {
  fam::Pipeline pipeline(test_bundle(), one_thread());
  std::promise<void> begun;
  std::atomic<bool> go_on{false};
  fam::Request request = small_request();
  bool told = false;
  request.progress = [&](const fam::Progress&) {
    if (!told) begun.set_value();
    told = true;
    while (!go_on) std::this_thread::yield();
    return true;
  };
  auto running = std::async(std::launch::async, [&] { return rgb_of(pipeline.generate(request)); });
  begun.get_future().wait();
  try {
    pipeline.generate(small_request());
    FAIL("not refused");
  } catch (const fam::Error& error) {
    CHECK(error.status() == FAM_ERROR_BUSY);
  }
  CHECK_THROWS_AS(pipeline.unload(), fam::Error);
  go_on = true;
  const std::string first = running.get();
  CHECK(first == rgb_of(pipeline.generate(small_request())));
}

TEST_CASE("cancelling from other threads at any time") {
  fam::Pipeline pipeline(test_bundle(), one_thread());
  std::atomic<bool> done{false};
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i) {
    others.emplace_back([&] {
      while (!done) {
        pipeline.cancel();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  int cancelled = 0;
  for (int i = 0; i < 5; ++i) {
    try {
      pipeline.generate(small_request(50));
    } catch (const fam::Error& error) {
      CHECK(error.status() == FAM_ERROR_CANCELLED);
      ++cancelled;
    }
  }
  done = true;
  for (std::thread& other : others) other.join();
  CHECK(cancelled == 5);
  CHECK(pipeline.generate(small_request()).size() == 1);
}

TEST_CASE("a result is read by several threads, and outlives its pipeline") {
  std::optional<fam::Pipeline> pipeline(std::in_place, test_bundle(), one_thread());
  const fam::Result result = pipeline->generate(small_request());
  pipeline.reset();
  const std::string expected = rgb_of(result);
  std::vector<std::future<std::string>> readers;
  for (int i = 0; i < 4; ++i) {
    readers.push_back(std::async(std::launch::async, [&] { return rgb_of(result); }));
  }
  for (auto& reader : readers) CHECK(reader.get() == expected);
}

TEST_CASE("the last error belongs to its thread") {
  const auto fail = [](const char* path) {
    fam_pipeline* none = nullptr;
    CHECK(fam_pipeline_open(path, nullptr, &none) == FAM_ERROR_BUNDLE_NOT_FOUND);
    return std::string(fam_last_error());
  };
  auto first = std::async(std::launch::async, fail, "no/first");
  auto second = std::async(std::launch::async, fail, "no/second");
  CHECK(first.get().find("no/first") != std::string::npos);
  CHECK(second.get().find("no/second") != std::string::npos);
}
