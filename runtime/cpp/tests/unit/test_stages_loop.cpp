// The two stages against a literal loop; stopping and failing at every step.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "unit/error_of.h"
#include "unit/stages_case.h"

namespace libfam {
namespace {

using fakes::Case;
using fakes::NamedValues;
using fakes::Values;

constexpr NativeAttention kChoices[] = {NativeAttention::none, NativeAttention::store,
                                        NativeAttention::replay};

Values values_of(const HostTensor& tensor) {
  return {tensor.floats(), tensor.floats() + element_count(tensor.shape)};
}

// What the paper does, step by step, with nothing planned and nothing shared.
class LiteralLoop {
 public:
  LiteralLoop(const Case& given, bool with_attention)
      : case_(given), with_attention_(with_attention) {
    for (std::int64_t i = 0; i < given.batch; ++i) {
      noise_.emplace_back(static_cast<std::uint32_t>(7 + i));
    }
  }

  std::pair<Values, Values> run() {
    Values native = scaled(case_.plan.init_noise_sigma, draw(2 * 2 * 3));
    std::vector<NamedValues> taps;
    native = stage(native, {}, [&](std::size_t, NamedValues& fed, const NamedValues* made) {
      if (made != nullptr) taps.push_back(*made);
      (void)fed;
    });
    const Values epsilon = draw(2 * 4 * 6);
    const Values reference = values_of(case_.reference());
    Values start(reference.size());
    for (std::size_t i = 0; i < start.size(); ++i) {
      const float signal = static_cast<float>(case_.plan.initial_signal) * reference[i];
      start[i] = signal + static_cast<float>(case_.plan.initial_noise) * epsilon[i];
    }
    const NamedValues more = {{contract::kReferenceLatent, reference},
                              {contract::kReferenceNoise, epsilon},
                              {contract::kAmStrength, {with_attention_ ? 0.7f : 0.0f}}};
    const Values target =
        stage(start, more, [&](std::size_t i, NamedValues& fed, const NamedValues* made) {
          if (made == nullptr) feed_target(i, taps[i], fed);
        });
    return {native, target};
  }

 private:
  Values draw(std::size_t size) {
    Values all;
    for (fakes::FakeNoise& source : noise_) {
      const Values piece = source.normal({1, static_cast<std::int64_t>(size)});
      all.insert(all.end(), piece.begin(), piece.end());
    }
    return all;
  }

  static Values scaled(double factor, Values values) {
    for (float& value : values) value *= static_cast<float>(factor);
    return values;
  }

  void feed_target(std::size_t i, const NamedValues& taps, NamedValues& fed) {
    const auto row = static_cast<std::size_t>(case_.plan.steps[i].fm_index);
    const auto rows = case_.tables.rows.begin() + static_cast<std::ptrdiff_t>(row * 4);
    const auto columns = case_.tables.columns.begin() + static_cast<std::ptrdiff_t>(row * 6);
    fed[contract::kFmKernelRows] = {rows, rows + 4};
    fed[contract::kFmKernelColumns] = {columns, columns + 6};
    fed[contract::kFmWeight] = {case_.tables.weight[row]};
    for (const std::string& name : fakes::tap_names()) {
      fed[name] = with_attention_ ? taps.at(name) : Values(taps.at(name).size());
    }
  }

  template <typename Hook>
  Values stage(Values latent, const NamedValues& more, Hook hook) {
    Values previous(latent.size());
    const auto batch = static_cast<std::size_t>(case_.batch);
    for (std::size_t i = 0; i < case_.plan.steps.size(); ++i) {
      const StepPlan& step = case_.plan.steps[i];
      NamedValues fed = more;
      for (const auto& [name, tensor] : case_.conditions()) fed[name] = values_of(tensor);
      fed[contract::kLatent] = latent;
      fed[contract::kPreviousPrediction] = previous;
      fed[contract::kTimestep] = {static_cast<float>(step.timestep)};
      fed[contract::kStepCoefficients] = {step.coefficients.begin(), step.coefficients.end()};
      fed[contract::kStepNoise] =
          step.needs_noise ? draw(latent.size() / batch) : Values(latent.size());
      hook(i, fed, nullptr);
      const NamedValues made = fakes::step_of(fed, batch, fakes::kTapTokens);
      hook(i, fed, &made);
      latent = made.at(contract::kNextLatent);
      previous = made.at(contract::kPrediction);
    }
    return latent;
  }

  const Case& case_;
  bool with_attention_;
  std::vector<fakes::FakeNoise> noise_;
};

// Throws after step `at` of `stage`, and remembers what it was told.
class Watcher final : public StepObserver {
 public:
  struct Told {
    Stage stage;
    std::size_t index;
    double timestep;
    Values latent;
  };

  bool wants_latents() const override { return latents; }
  void after_step(Stage stage, std::size_t index, const StepPlan& step,
                  const HostTensor* latent) override {
    told.push_back(
        {stage, index, step.timestep, latent == nullptr ? Values{} : values_of(*latent)});
    if (told.size() == stop_after) {
      throw Error(ErrorCode::cancelled, {.what = "the generation was stopped"});
    }
  }

  bool latents = false;
  std::size_t stop_after = 0;
  std::vector<Told> told;
};

TEST_CASE("stages: as a literal loop, on the host and on a device, stored and replayed") {
  const std::vector<std::vector<bool>> noisy = {{},
                                                {true, true, true, true, true},
                                                {true, true, true, true, false},
                                                {false, true, false, false, true}};
  for (const bool host : {true, false}) {
    for (const bool every_output : {false, true}) {
      for (const auto& needs : noisy) {
        for (const NativeAttention choice : kChoices) {
          Case given(host, needs);
          given.native_engine.every_output = every_output;
          given.target_engine.every_output = every_output;
          const auto [native, target] = given.run(choice);
          const auto expected = LiteralLoop(given, choice != NativeAttention::none).run();
          CHECK(values_of(native) == expected.first);
          CHECK(values_of(target) == expected.second);
          CHECK(std::isfinite(expected.second[0]));
        }
      }
    }
  }
}

TEST_CASE("stages: a second batch is not changed by the first, whatever it kept") {
  for (const bool host : {true, false}) {
    for (const NativeAttention before : kChoices) {
      for (const NativeAttention choice : kChoices) {
        Case given(host, {true, false, true, true, false});
        const Values alone = values_of(given.run(choice).second);
        given.run(before);
        CHECK(values_of(given.run(choice).second) == alone);
      }
    }
  }
}

TEST_CASE("stages: batches of other sizes and other steps in turn") {
  Case given(false);
  const Values pair = values_of(given.run(NativeAttention::store).second);
  given.batch = 1;
  const Values one = values_of(given.run(NativeAttention::replay).second);
  CHECK(std::equal(one.begin(), one.end(), pair.begin()));
  given.batch = 3;
  const Values three = values_of(given.run(NativeAttention::store).second);
  CHECK(std::equal(one.begin(), one.end(), three.begin()));
  given.batch = 2;
  CHECK(values_of(given.run(NativeAttention::store).second) == pair);
}

TEST_CASE("stages: a method without the native stage needs none") {
  Case given(true);
  given.method = "direct";
  PictureNoise noise = fakes::noise_of(2);
  const StageProgram program = given.target(noise, NativeAttention::none);
  const HostTensor latent = run_stage(given.loop, program, "fp32");
  CHECK(given.native_engine.fed.empty());
  const Values epsilon = given.target_engine.fed.at(0).at(contract::kReferenceNoise);
  CHECK(given.target_engine.fed.at(0).at(contract::kLatent)[3] ==
        static_cast<float>(given.plan.init_noise_sigma) * epsilon[3]);
  CHECK(given.target_engine.fed.at(4).at(contract::kFmWeight) == Values{0.0f});
  given.loop.end_batch();
  CHECK(given.device.live.empty());
}

TEST_CASE("stages: without attention modulation taps of any type are zeros") {
  Case given(true);
  given.native_spec = fakes::step_spec(false, 2, 3, Dtype::float16);
  given.target_spec = fakes::step_spec(true, 4, 6, Dtype::float16);
  const auto [native, target] = given.run(NativeAttention::none);
  CHECK(values_of(target) == LiteralLoop(given, false).run().second);
}

TEST_CASE("stages: observers are told of every step in order, with its latent if they want it") {
  for (const bool host : {true, false}) {
    for (const bool latents : {true, false}) {
      Case given(host);
      Watcher watcher;
      watcher.latents = latents;
      given.observer = &watcher;
      const auto [native, target] = given.run(NativeAttention::replay);
      REQUIRE(watcher.told.size() == 10);
      for (std::size_t i = 0; i < 10; ++i) {
        CHECK(watcher.told[i].stage == (i < 5 ? Stage::native : Stage::target));
        CHECK(watcher.told[i].index == i % 5);
        CHECK(watcher.told[i].timestep == given.plan.steps[i % 5].timestep);
        CHECK(watcher.told[i].latent.empty() == !latents);
      }
      if (!latents) continue;
      CHECK(watcher.told[4].latent == values_of(native));
      CHECK(watcher.told[9].latent == values_of(target));
      CHECK(watcher.told[6].latent == given.target_engine.fed.at(2).at(contract::kLatent));
    }
  }
}

TEST_CASE("stages: cancelled at any step, nothing is left, and the loop goes on") {
  for (const bool host : {true, false}) {
    for (const NativeAttention choice : kChoices) {
      Case given(host);
      const Values whole = values_of(given.run(choice).second);
      for (std::size_t step = 1; step <= 10; ++step) {
        Watcher watcher;
        watcher.stop_after = step;
        watcher.latents = step % 2 == 0;
        given.observer = &watcher;
        CHECK(error_of([&] { given.run(choice); }).first == ErrorCode::cancelled);
        CHECK(watcher.told.size() == step);
        if (host) CHECK(given.device.live.empty());
        given.observer = nullptr;
        if (step % 3 == 0) CHECK(values_of(given.run(choice).second) == whole);
      }
      CHECK(values_of(given.run(choice).second) == whole);
      given.loop.close();
      CHECK(given.device.live.empty());
      CHECK(given.loop.buffer_bytes() == 0);
    }
  }
}

TEST_CASE("stages: an engine that fails at any run leaves nothing behind") {
  for (const bool host : {true, false}) {
    for (std::size_t run = 0; run < 10; ++run) {
      Case given(host);
      (run < 5 ? given.native_engine : given.target_engine).runs_left = run % 5;
      CHECK(error_of([&] { given.run(NativeAttention::store); }).first == ErrorCode::backend);
      if (host) CHECK(given.device.live.empty());
      given.native_engine.runs_left.reset();
      given.target_engine.runs_left.reset();
      CHECK(values_of(given.run(NativeAttention::store).second) ==
            LiteralLoop(given, true).run().second);
    }
  }
}

TEST_CASE("stages: without memory at any allocation nothing leaks") {
  for (const bool host : {true, false}) {
    bool failed = true;
    for (std::size_t n = 0; failed && n < 100; ++n) {
      Case given(host);
      given.device.allocations_left = n;
      try {
        given.run(NativeAttention::store);
        failed = false;
        CHECK(n > 10);
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::out_of_memory);
        if (host) CHECK(given.device.live.empty());
        CHECK(values_of(given.run(NativeAttention::store).second) ==
              LiteralLoop(given, true).run().second);
      }
      given.loop.close();
      CHECK(given.device.live.empty());
    }
    CHECK_FALSE(failed);
  }
}

TEST_CASE("stages: numbers that overflow are an error in both stages") {
  Case given(true);
  given.plan.steps[4].coefficients[contract::kNextFromLatent] =
      std::numeric_limits<float>::infinity();
  PictureNoise noise = fakes::noise_of(2);
  CHECK_THROWS_WITH_AS(run_stage(given.loop, given.native(noise, NativeAttention::none), "fp32"),
                       doctest::Contains("the native latent is not a number any more"), Error);
  CHECK_THROWS_WITH_AS(run_stage(given.loop, given.target(noise, NativeAttention::none), "fp16"),
                       doctest::Contains("the target latent is not a number any more"), Error);
}

TEST_CASE("stages: feeds that do not fit the graph are refused before anything is allocated") {
  Case given(true);
  PictureNoise noise = fakes::noise_of(2);
  StageProgram program = given.native(noise, NativeAttention::none);
  const StageProgram right = program;
  program.constants.erase(contract::kPromptEmbeds);
  CHECK_THROWS_WITH_AS(given.loop.run(program), doctest::Contains("wrong inputs"), Error);
  program = right;
  program.constants.emplace("further", HostTensor::scalar(1));
  CHECK_THROWS_WITH_AS(given.loop.run(program), doctest::Contains("wrong inputs"), Error);
  program = right;
  program.constants[contract::kPromptEmbeds] = HostTensor::zeros({4, 3, 1}, Dtype::float32);
  CHECK_THROWS_WITH_AS(given.loop.run(program), doctest::Contains("wrong shape"), Error);
  program.constants[contract::kPromptEmbeds] = HostTensor::zeros({4, 3, 2}, Dtype::float16);
  CHECK_THROWS_WITH_AS(given.loop.run(program), doctest::Contains("wrong dtype"), Error);
  CHECK(given.device.log.count(fakes::Event::Kind::allocate) == 0);
}

TEST_CASE("stages: a target stage without the native stage that it names is a mistake") {
  Case given(false);
  PictureNoise noise = fakes::noise_of(2);
  CHECK_THROWS_AS(given.loop.run(given.target(noise, NativeAttention::store)), std::logic_error);
  given.loop.run(given.native(noise, NativeAttention::replay));
  StageProgram program = given.target(noise, NativeAttention::replay);
  program.native_engine = nullptr;
  CHECK_THROWS_AS(given.loop.run(program), std::logic_error);
  CHECK_THROWS_AS(given.loop.run(given.target(noise, NativeAttention::store)), std::logic_error);
  program.native_engine = &given.native_engine;
  CHECK_NOTHROW(given.loop.run(program));
  CHECK_NOTHROW(given.loop.run(program));  // a replay may be done again
  given.native_engine.runs_left = 3;
  CHECK_THROWS_AS(given.loop.run(given.native(noise, NativeAttention::replay)), Error);
  given.native_engine.runs_left.reset();
  CHECK_THROWS_AS(given.loop.run(program), std::logic_error);  // half of it was written over
  given.loop.run(given.native(noise, NativeAttention::replay));
  given.loop.end_batch();
  CHECK_THROWS_AS(given.loop.run(program), std::logic_error);  // its engine may be gone
}

}  // namespace
}  // namespace libfam
