#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "base/python_text.h"
#include "picture/picture.h"

namespace libfam {
namespace {

using Json = nlohmann::json;

Json member(const Json& settings, const char* name) {
  const auto found = settings.find(name);
  return found == settings.end() ? Json() : *found;
}

// str(value) of Python.
std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_unsigned()) return repr(value.get<std::uint64_t>()).text;
  if (value.is_number_integer()) return repr(value.get<std::int64_t>()).text;
  if (value.is_number_float()) return repr(value.get<double>()).text;
  if (value.is_boolean()) return repr(value.get<bool>()).text;
  return value.is_null() ? "None" : value.dump();
}

std::string size_text(const Json& settings) {
  return text_of(member(settings, "width")) + "x" + text_of(member(settings, "height"));
}

std::string named_values(const Json& settings) {
  const Json bundle = member(settings, "bundle");
  const bool native = member(settings, "stage") == "native";
  const std::pair<const char*, Json> named[] = {
      {"Steps", member(settings, "num_inference_steps")},
      {"Sampler", member(settings, "scheduler")},
      {"CFG scale", member(settings, "guidance_scale")},
      {"Seed", member(settings, "seed")},
      // The settings of a native picture are those of the target beside it.
      {"Size", native ? Json() : Json(size_text(settings))},
      {"Model", bundle.is_object() ? member(bundle, "name") : Json()},
      {"FAM method", member(settings, "method")},
      {"FAM am_strength", member(settings, "am_strength")},
  };
  std::vector<std::string> said;
  for (const auto& [name, value] : named) {
    if (!value.is_null()) said.push_back(std::string(name) + ": " + text_of(value));
  }
  return joined(said, ", ");
}

}  // namespace

std::string parameters_text(const std::string& settings_json) {
  const Json settings = Json::parse(settings_json, nullptr, /*allow_exceptions=*/false);
  if (!settings.is_object()) throw std::logic_error("settings are a JSON object");
  const Json prompt = member(settings, "prompt");
  const Json negative = member(settings, "negative_prompt");
  std::vector<std::string> lines = {prompt.is_null() ? "" : text_of(prompt)};
  if (negative.is_string() && !negative.get_ref<const std::string&>().empty()) {
    lines.push_back("Negative prompt: " + text_of(negative));
  }
  lines.push_back(named_values(settings));
  return joined(lines, "\n");
}

}  // namespace libfam
