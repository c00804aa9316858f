// A batch through both stages, by the runtime and by a literal loop.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sampling/stage_loop.h"
#include "unit/stages_fakes.h"

namespace libfam::fakes {

inline constexpr const char* kNative = "unet/native.onnx";
inline constexpr const char* kTarget = "unet/target-64x96.onnx";
inline constexpr std::int64_t kTrainTimesteps = 20;
inline constexpr std::int64_t kTapTokens = 5;

inline GraphSpec step_spec(bool target, std::int64_t h, std::int64_t w,
                           Dtype tap_dtype = Dtype::float32) {
  const SymbolicShape latent = {"B", std::int64_t{2}, h, w};
  const auto f32 = [](const char* name, SymbolicShape shape) {
    return TensorSpec{name, Dtype::float32, std::move(shape)};
  };
  GraphSpec spec;
  spec.inputs = {f32(contract::kLatent, latent),
                 f32(contract::kTimestep, {}),
                 f32(contract::kStepCoefficients, {std::int64_t{9}}),
                 f32(contract::kPreviousPrediction, latent),
                 f32(contract::kStepNoise, latent),
                 f32(contract::kGuidanceScale, {}),
                 f32(contract::kPromptEmbeds, {"2B", std::int64_t{3}, std::int64_t{2}})};
  spec.outputs = {f32(contract::kNextLatent, latent), f32(contract::kPrediction, latent)};
  if (target) {
    for (TensorSpec& further : std::vector<TensorSpec>{
             f32(contract::kReferenceLatent, latent), f32(contract::kReferenceNoise, latent),
             f32(contract::kFmKernelRows, {h}), f32(contract::kFmKernelColumns, {w}),
             f32(contract::kFmWeight, {}), f32(contract::kAmStrength, {})}) {
      spec.inputs.push_back(std::move(further));
    }
  }
  for (const std::string& name : tap_names()) {
    (target ? spec.inputs : spec.outputs)
        .push_back({name, tap_dtype, {"2B", kTapTokens, std::int64_t{1}}});
  }
  return spec;
}

// Coefficients that no sampler has, so that each of them shows.
inline SamplingPlan fake_plan(std::size_t steps, const std::vector<bool>& noisy = {}) {
  SamplingPlan plan = {
      .steps = {}, .initial_signal = 0.3, .initial_noise = 0.9, .init_noise_sigma = 1.7};
  for (std::size_t i = 0; i < steps; ++i) {
    StepPlan step;
    step.timestep = static_cast<double>(steps - i) * 2.5;
    step.fm_index = static_cast<std::int64_t>(steps - i);
    for (std::size_t k = 0; k < step.coefficients.size(); ++k) {
      step.coefficients64[k] = 0.1 + 0.07 * static_cast<double>((3 * k + 5 * i) % 11);
      step.coefficients[k] = static_cast<float>(step.coefficients64[k]);
    }
    step.needs_noise = !noisy.empty() && noisy[i];
    plan.steps.push_back(step);
  }
  return plan;
}

struct Case {
  explicit Case(bool host, std::vector<bool> noisy_steps = {}, std::size_t step_count = 5,
                std::size_t total = std::size_t{1} << 30)
      : device(host, total), plan(fake_plan(step_count, noisy_steps)) {
    for (std::int64_t i = 0; i < kTrainTimesteps; ++i) {
      tables.weight.push_back(0.04f * static_cast<float>(i));
      for (std::int64_t y = 0; y < 4; ++y) tables.rows.push_back(0.1f * static_cast<float>(i + y));
      for (std::int64_t x = 0; x < 6; ++x)
        tables.columns.push_back(0.2f * static_cast<float>(i - x));
    }
    tables.timesteps = kTrainTimesteps;
    tables.latent = {4, 6};
  }

  Feeds conditions() const {
    Values text;  // a picture's does not depend on its company
    for (const float half : {0.01f, 0.02f}) {
      for (std::int64_t i = 0; i < 6 * batch; ++i) text.push_back(half * static_cast<float>(i + 1));
    }
    Feeds feeds;
    feeds.emplace(contract::kPromptEmbeds, HostTensor::from(text, {2 * batch, 3, 2}));
    feeds.emplace(contract::kGuidanceScale, HostTensor::scalar(1.5f));
    return feeds;
  }

  HostTensor reference() const {
    Values values(static_cast<std::size_t>(batch * 2 * 4 * 6));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = 0.02f * static_cast<float>(i) - 0.5f;
    return HostTensor::from(values, {batch, 2, 4, 6});
  }

  StageProgram native(PictureNoise& noise, NativeAttention attention) {
    return native_program({plan, noise, observer}, native_engine, conditions(), {2, 2, 3},
                          {attention, tap_names()});
  }
  StageProgram target(PictureNoise& noise, NativeAttention attention) {
    return target_program({plan, noise, observer}, target_engine, conditions(), reference(),
                          method_named(method), attention == NativeAttention::none ? 0.0 : 0.7,
                          tables, {attention, tap_names(), &native_engine});
  }

  // Final latents of both stages.
  std::pair<HostTensor, HostTensor> run(NativeAttention attention) {
    PictureNoise noise = noise_of(static_cast<std::size_t>(batch));
    const BatchEnd end(loop);
    loop.reserve(
        {stage_shape(Stage::target, target_spec, batch, plan.steps, tap_names(), attention),
         stage_shape(Stage::native, native_spec, batch, plan.steps, tap_names(), attention)});
    HostTensor first = run_stage(loop, native(noise, attention), "fp32");
    HostTensor second = run_stage(loop, target(noise, attention), "fp32");
    return {std::move(first), std::move(second)};
  }

  std::int64_t batch = 2;
  std::string method = "fam";
  StepObserver* observer = nullptr;
  GraphSpec native_spec = step_spec(false, 2, 3);
  GraphSpec target_spec = step_spec(true, 4, 6);
  RecordingDevice device;
  FakeEngine native_engine{kNative, native_spec, &device.log};
  FakeEngine target_engine{kTarget, target_spec, &device.log};
  SamplingPlan plan;
  KernelTables tables;
  StageLoop loop{device};
};

}  // namespace libfam::fakes
