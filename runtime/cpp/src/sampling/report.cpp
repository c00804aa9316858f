#include "sampling/report.h"

#include "base/python_text.h"
#include "sampling/json_text.h"

namespace libfam {
namespace {

std::string json_of(const std::map<std::string, double>& seconds) {
  JsonMembers members;
  for (const auto& [stage, value] : seconds) members[stage] = repr(value).text;
  return json_object(members);
}

}  // namespace

std::string Report::json() const {
  return json_object({{"native_attention", json_text(name_of(native_attention))},
                      {"stored_bytes", std::to_string(stored_bytes)},
                      {"memory_budget_bytes", std::to_string(memory_budget_bytes)},
                      {"device_buffers", std::to_string(device_buffers)},
                      {"seconds", json_of(seconds)},
                      {"step_seconds", json_of(step_seconds)}});
}

}  // namespace libfam
