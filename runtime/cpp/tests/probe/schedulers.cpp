// Sampling plans.
#include <optional>
#include <string>
#include <vector>

#include "probe/probe.h"
#include "schedulers/plan.h"

namespace libfam::probe {
namespace {

NoiseScheduleInfo schedule_from(const Json& in) {
  NoiseScheduleInfo schedule;
  const auto read = [&in](const char* key, auto& value) {
    if (in.contains(key) && !in.at(key).is_null()) in.at(key).get_to(value);
  };
  const auto read_optional = [&in](const char* key, auto& value) {
    using Value = typename std::decay_t<decltype(value)>::value_type;
    if (in.contains(key) && !in.at(key).is_null()) value = in.at(key).get<Value>();
  };
  read("num_train_timesteps", schedule.num_train_timesteps);
  read("beta_start", schedule.beta_start);
  read("beta_end", schedule.beta_end);
  read("beta_schedule", schedule.beta_schedule);
  read_optional("trained_betas", schedule.trained_betas);
  read("rescale_betas_zero_snr", schedule.rescale_betas_zero_snr);
  read("prediction_type", schedule.prediction_type);
  read_optional("timestep_spacing", schedule.timestep_spacing);
  read("steps_offset", schedule.steps_offset);
  read("set_alpha_to_one", schedule.set_alpha_to_one);
  read("final_sigmas_type", schedule.final_sigmas_type);
  read("use_karras_sigmas", schedule.use_karras_sigmas);
  read("lower_order_final", schedule.lower_order_final);
  read("euler_at_final", schedule.euler_at_final);
  read_optional("lambda_min_clipped", schedule.lambda_min_clipped);
  read("original_inference_steps", schedule.original_inference_steps);
  read("timestep_scaling", schedule.timestep_scaling);
  return schedule;
}

template <typename Value>
void append(std::string& bytes, const Value* values, std::size_t count) {
  bytes.append(reinterpret_cast<const char*>(values), count * sizeof(Value));
}

// Written to a file: initial_signal, initial_noise, init_noise_sigma; then of every step timestep,
// fm_index, coefficients64, coefficients, and needs_noise in one byte.
const Registration kPlan("schedulers.plan", [](const Json& in) {
  const SamplingPlan plan =
      make_plan(in.at("name").get<std::string>(), schedule_from(in.at("schedule")),
                in.at("num_inference_steps").get<std::int64_t>());
  std::string bytes;
  append(bytes, &plan.initial_signal, 1);
  append(bytes, &plan.initial_noise, 1);
  append(bytes, &plan.init_noise_sigma, 1);
  for (const StepPlan& step : plan.steps) {
    append(bytes, &step.timestep, 1);
    append(bytes, &step.fm_index, 1);
    append(bytes, step.coefficients64.data(), step.coefficients64.size());
    append(bytes, step.coefficients.data(), step.coefficients.size());
    bytes += step.needs_noise ? '\1' : '\0';
  }
  write_bytes(in.at("path").get<std::string>(), bytes.data(), bytes.size());
  return Json(plan.steps.size());
});

}  // namespace
}  // namespace libfam::probe
