#include "schedulers/plan.h"

#include <array>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "schedulers/ddim.h"
#include "schedulers/dpmpp_2m.h"
#include "schedulers/euler.h"
#include "schedulers/euler_ancestral.h"
#include "schedulers/lcm.h"
#include "schedulers/noise_schedule.h"

namespace libfam {
namespace {

using Sampler = SamplingPlan (*)(const NoiseSchedule&, std::int64_t);

constexpr std::array<std::pair<std::string_view, Sampler>, 5> kSamplers = {{
    {"ddim", ddim_plan},
    {"dpm++2m", dpmpp_2m_plan},
    {"euler", euler_plan},
    {"euler-a", euler_ancestral_plan},
    {"lcm", lcm_plan},
}};

Sampler sampler_called(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [known, sampler] : kSamplers) {
    if (known == name) return sampler;
    names.emplace_back(known);
  }
  throw Error(ErrorCode::invalid_request, {.what = "unknown scheduler",
                                           .got = repr(name),
                                           .expected = joined(names, " or "),
                                           .fix = "use ddim, the default"});
}

}  // namespace

SamplingPlan make_plan(const std::string& name, const NoiseScheduleInfo& schedule,
                       std::int64_t num_inference_steps) {
  // In the order of Python's pipeline, which reads the schedule first.
  const NoiseSchedule known = NoiseSchedule::from_info(schedule);
  const Sampler sampler = sampler_called(name);
  const std::int64_t total = known.num_train_timesteps();
  if (num_inference_steps < 1 || num_inference_steps > total) {
    throw Error(ErrorCode::invalid_request,
                {.what = "num_inference_steps is out of range",
                 .got = repr(num_inference_steps),
                 .expected = "a whole number from 1 to " + std::to_string(total),
                 .fix = "20 to 50 steps are usual"});
  }
  return sampler(known, num_inference_steps);
}

}  // namespace libfam
