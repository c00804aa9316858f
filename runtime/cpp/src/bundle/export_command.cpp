// The command that adds a target to a bundle: fam-export with the options it was made with.
#include <array>

#include "base/python_text.h"
#include "base/shell_quoting.h"
#include "bundle/manifest.h"

namespace libfam {
namespace {

constexpr std::string_view kDemo = "demo";

struct Option {
  std::string name;
  std::string value;
  std::string usual;
};

// Options of fam-export that are not at their defaults.
std::vector<std::string> other_options(const Manifest& manifest) {
  const std::array<Option, 6> chosen = {{
      {"--dtype", manifest.model.dtype, "fp32"},
      {"--taps", manifest.taps.form, "qk"},
      {"--fm-cutoff", manifest.frequency_modulation.cutoff_reference,
       FrequencyModulationInfo().cutoff_reference},
      {"--upsample", manifest.upsample.mode, UpsampleInfo().mode},
      {"--upsample-space", manifest.upsample.space, UpsampleInfo().space},
      {"--size-conditions", manifest.size_conditions.value_or("stage"), "stage"},
  }};
  std::vector<std::string> options;
  if (!manifest.model.guidance) options.emplace_back("--no-guidance");
  for (const Option& option : chosen) {
    if (option.value != option.usual) options.push_back(option.name + " " + option.value);
  }
  for (const LoraInfo& lora : manifest.model.loras) {
    options.push_back("--lora " +
                      shell_quoted("PATH_TO_" + lora.name + ":" + repr(lora.strength).text));
  }
  return options;
}

}  // namespace

// A manifest does not know where its checkpoint lies, so PATH_TO_… stands for it; nor whether its
// tap layers are the default ones, so a bundle exported with --tap-layers needs that too.
std::string export_command(const Manifest& manifest, const std::string& option,
                           const std::optional<std::string>& root) {
  std::vector<std::string> words = {"fam-export"};
  if (manifest.model.name != kDemo) {
    words.push_back("--model " + shell_quoted("PATH_TO_" + manifest.model.name));
  }
  words.push_back(option);
  if (root) words.push_back("--output " + shell_quoted(*root));
  for (std::string& other : other_options(manifest)) words.push_back(std::move(other));
  return joined(words, " ");
}

}  // namespace libfam
