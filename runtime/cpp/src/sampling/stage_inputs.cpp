#include "sampling/stage_inputs.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "bundle/contract.h"

namespace libfam {
namespace {

using Coefficients = std::array<float, contract::kStepCoefficientCount>;

std::int64_t count_of(const std::vector<StepPlan>& steps) {
  return static_cast<std::int64_t>(steps.size());
}

HostTensor scaled(double factor, HostTensor tensor) {
  const auto rounded = static_cast<float>(factor);
  const std::int64_t count = element_count(tensor.shape);
  std::transform(tensor.floats(), tensor.floats() + count, tensor.floats(),
                 [rounded](float value) { return rounded * value; });
  return tensor;
}

HostTensor coefficient_table(const std::vector<Coefficients>& rows) {
  std::vector<float> values;
  for (const Coefficients& row : rows) values.insert(values.end(), row.begin(), row.end());
  return HostTensor::from(values, {static_cast<std::int64_t>(rows.size()),
                                   static_cast<std::int64_t>(contract::kStepCoefficientCount)});
}

// What both programs take over as it is.
StageProgram program_of(Stage stage, const Sampling& sampling, Engine& engine, Feeds conditions,
                        const Shape& latent_shape, const AttentionFeed& attention) {
  StageProgram program;
  program.stage = stage;
  program.engine = &engine;
  program.steps = sampling.plan.steps;
  program.constants = std::move(conditions);
  program.tables = sampler_tables(sampling.plan);
  program.draw_noise = [&noise = sampling.noise, latent_shape] { return noise.draw(latent_shape); };
  program.observer = sampling.observer;
  program.attention = attention.choice;
  program.tap_names = attention.tap_names;
  program.native_engine = attention.native_engine;
  return program;
}

// The kernel of one axis at every step: the table's rows, or the kernel whose circulant matrix is
// the identity.
template <typename Kernel>
HostTensor kernel_table(const Method& method, const std::vector<StepPlan>& steps,
                        std::int64_t length, Kernel kernel_of_timestep) {
  HostTensor table = HostTensor::zeros({count_of(steps), length}, Dtype::float32);
  float* row = table.floats();
  for (const StepPlan& step : steps) {
    if (method.fm_kernel == Method::FmKernel::table) {
      std::copy_n(kernel_of_timestep(step.fm_index), length, row);
    } else {
      *row = 1;
    }
    row += length;
  }
  return table;
}

float fm_weight(const Method& method, const KernelTables& tables, const StepPlan& step) {
  if (method.fm_kernel == Method::FmKernel::off) return 0;
  if (method.fm_weight == Method::FmWeight::table) {
    return tables.weight.at(static_cast<std::size_t>(step.fm_index));
  }
  return static_cast<float>(skip_residual_weight(step.timestep, tables.timesteps));
}

}  // namespace

StageProgram native_program(const Sampling& sampling, Engine& engine, Feeds conditions,
                            const Shape& latent_shape, const AttentionFeed& attention) {
  StageProgram program =
      program_of(Stage::native, sampling, engine, std::move(conditions), latent_shape, attention);
  program.first_latent = scaled(sampling.plan.init_noise_sigma, sampling.noise.draw(latent_shape));
  return program;
}

StageProgram target_program(const Sampling& sampling, Engine& engine, Feeds conditions,
                            const HostTensor& reference_latent, const Method& method,
                            double am_strength, const KernelTables& tables,
                            const AttentionFeed& attention) {
  const Shape latent_shape(reference_latent.shape.begin() + 1, reference_latent.shape.end());
  HostTensor epsilon = sampling.noise.draw(latent_shape);
  StageProgram program =
      program_of(Stage::target, sampling, engine, std::move(conditions), latent_shape, attention);
  program.first_latent = first_target_latent(method, sampling.plan, reference_latent, epsilon);
  program.constants.insert_or_assign(contract::kReferenceLatent, reference_latent);
  program.constants.insert_or_assign(contract::kReferenceNoise, std::move(epsilon));
  program.constants.insert_or_assign(contract::kAmStrength,
                                     HostTensor::scalar(static_cast<float>(am_strength)));
  std::vector<Coefficients> coefficients;
  for (const StepPlan& step : program.steps) {
    coefficients.push_back(reference_coefficients(method, step));
  }
  program.tables.insert_or_assign(contract::kStepCoefficients, coefficient_table(coefficients));
  program.tables.merge(fm_tables(method, tables, program.steps));
  return program;
}

Feeds sampler_tables(const SamplingPlan& plan) {
  std::vector<float> timesteps;
  std::vector<Coefficients> coefficients;
  for (const StepPlan& step : plan.steps) {
    timesteps.push_back(static_cast<float>(step.timestep));
    coefficients.push_back(step.coefficients);
  }
  Feeds tables;
  tables.emplace(contract::kTimestep, HostTensor::from(timesteps, {count_of(plan.steps)}));
  tables.emplace(contract::kStepCoefficients, coefficient_table(coefficients));
  return tables;
}

HostTensor first_target_latent(const Method& method, const SamplingPlan& plan,
                               const HostTensor& reference_latent, const HostTensor& noise) {
  if (method.start == Method::Start::noise) return scaled(plan.init_noise_sigma, noise);
  if (reference_latent.shape != noise.shape || reference_latent.dtype != Dtype::float32) {
    throw std::logic_error("the reference latent does not fit the noise");
  }
  HostTensor latent = scaled(plan.initial_noise, noise);
  const HostTensor signal = scaled(plan.initial_signal, reference_latent);
  std::transform(signal.floats(), signal.floats() + element_count(signal.shape), latent.floats(),
                 latent.floats(), [](float a, float b) { return a + b; });
  return latent;
}

std::array<float, contract::kStepCoefficientCount> reference_coefficients(const Method& method,
                                                                          const StepPlan& step) {
  Coefficients coefficients = step.coefficients;
  if (method.reference == Method::Reference::diffused) return coefficients;
  const double scale = step.coefficients64[contract::kModelInputScale];
  coefficients[contract::kReferenceSignal] = static_cast<float>(1 / scale);
  coefficients[contract::kReferenceNoiseCoefficient] = 0;
  return coefficients;
}

Feeds fm_tables(const Method& method, const KernelTables& tables,
                const std::vector<StepPlan>& steps) {
  std::vector<float> weights;
  for (const StepPlan& step : steps) {
    if (step.fm_index < 0 || step.fm_index >= tables.timesteps) {
      throw std::logic_error("a step has no row in the tables of FM");
    }
    weights.push_back(fm_weight(method, tables, step));
  }
  Feeds feeds;
  feeds.emplace(contract::kFmKernelRows,
                kernel_table(method, steps, tables.latent.height,
                             [&](std::int64_t t) { return tables.row_kernel(t); }));
  feeds.emplace(contract::kFmKernelColumns,
                kernel_table(method, steps, tables.latent.width,
                             [&](std::int64_t t) { return tables.column_kernel(t); }));
  feeds.emplace(contract::kFmWeight, HostTensor::from(weights, {count_of(steps)}));
  return feeds;
}

}  // namespace libfam
