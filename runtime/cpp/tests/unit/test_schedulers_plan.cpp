// Plans: what holds for every sampler, and threads.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "schedulers/interpolation.h"
#include "schedulers/plan.h"

namespace libfam {
namespace {

const std::vector<std::string> kSamplers = {"ddim", "dpm++2m", "euler", "euler-a", "lcm"};

NoiseScheduleInfo stable_diffusion() {
  NoiseScheduleInfo schedule;
  schedule.beta_start = 0.00085;
  schedule.beta_end = 0.012;
  schedule.beta_schedule = "scaled_linear";
  return schedule;
}

bool same(const SamplingPlan& a, const SamplingPlan& b) {
  if (a.steps.size() != b.steps.size()) return false;
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    if (a.steps[i].coefficients64 != b.steps[i].coefficients64) return false;
  }
  return true;
}

TEST_CASE("what holds for every plan") {
  const NoiseScheduleInfo schedule = stable_diffusion();
  for (const std::string& name : kSamplers) {
    for (const std::int64_t count : {1, 2, 14, 15, 16, 50}) {
      CAPTURE(name);
      CAPTURE(count);
      const SamplingPlan plan = make_plan(name, schedule, count);
      REQUIRE(plan.steps.size() == static_cast<std::size_t>(count));
      const auto& first = plan.steps.front().coefficients64;
      CHECK(plan.initial_signal == first[contract::kReferenceSignal]);
      CHECK(plan.initial_noise == first[contract::kReferenceNoiseCoefficient]);
      double before = 1e9;
      for (const StepPlan& step : plan.steps) {
        CHECK(step.timestep < before);
        before = step.timestep;
        CHECK(step.fm_index >= 0);
        CHECK(step.fm_index < schedule.num_train_timesteps);
        CHECK(std::abs(static_cast<double>(step.fm_index) - step.timestep) <= 0.5);
        for (std::size_t i = 0; i < step.coefficients.size(); ++i) {
          CHECK(step.coefficients[i] == static_cast<float>(step.coefficients64[i]));
          CHECK(std::isfinite(step.coefficients[i]));
        }
        if (!step.needs_noise) CHECK(step.coefficients[contract::kNextFromNoise] == 0);
      }
      // The last step's result is its data prediction: no noise is left.
      const auto& last = plan.steps.back().coefficients64;
      CHECK(last[contract::kNextFromNoise] == 0);
      if (name != "lcm") {
        CHECK(last[contract::kNextFromLatent] ==
              doctest::Approx(last[contract::kPredictionFromLatent]));
        CHECK(last[contract::kNextFromOutput] ==
              doctest::Approx(last[contract::kPredictionFromOutput]));
      }
    }
  }
}

TEST_CASE("plans made in several threads are the same") {
  const NoiseScheduleInfo schedule = stable_diffusion();
  for (const std::string& name : kSamplers) {
    std::vector<SamplingPlan> plans(4);
    std::vector<std::thread> threads;
    for (SamplingPlan& plan : plans) {
      threads.emplace_back([&] { plan = make_plan(name, schedule, 30); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const SamplingPlan& plan : plans) CHECK(same(plan, plans.front()));
  }
}

TEST_CASE("refusals are errors of the request") {
  for (const std::string& name : kSamplers) {
    for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1001}, INT64_MIN, INT64_MAX}) {
      try {
        make_plan(name, stable_diffusion(), count);
        FAIL("not refused");
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::invalid_request);
      }
    }
  }
  NoiseScheduleInfo schedule = stable_diffusion();
  schedule.lambda_min_clipped = 1000;
  schedule.timestep_spacing = "trailing";
  CHECK_THROWS_AS(make_plan("dpm++2m", schedule, 1), Error);
}

TEST_CASE("interpolation outside of the table, and where its last value lies below others") {
  const std::vector<double> xp = {0, 1, 5, 7, 4};
  const std::vector<double> fp = {0, 10, 20, 30, 40};
  const std::vector<double> expected = {0, 0, 5, 10, 15, 40, 40};
  CHECK(interpolated({-1, 0, 0.5, 1, 3, 4, 9}, xp, fp) == expected);
  CHECK(at_positions({-1, 0.25, 4, 9}, fp) == std::vector<double>{0, 2.5, 40, 40});
}

}  // namespace
}  // namespace libfam
