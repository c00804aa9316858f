#include "sampling/settings.h"

#include "base/python_text.h"
#include "sampling/json_text.h"

namespace libfam {
namespace {

constexpr const char* kNull = "null";

std::string json_of(const std::optional<Tiling>& tiling) {
  if (!tiling) return kNull;
  return json_list({std::to_string(tiling->tile), std::to_string(tiling->overlap)});
}

std::string made_with_json(const Maker& maker) {
  JsonMembers programs;
  for (const auto& [name, version] : maker.made_with) programs[name] = json_text(version);
  return json_object(programs);
}

}  // namespace

std::string settings_of_picture(const Maker& maker, const Request& request,
                                const PictureRequest& picture, Stage stage) {
  const auto& negative = picture.negative_prompt;
  JsonMembers settings = {
      {"settings_version", std::to_string(kSettingsVersion)},
      {"bundle", json_object({{"name", json_text(maker.bundle_name)},
                              {"hash", json_text(maker.bundle_hash)}})},
      {"prompt", json_text(picture.prompt)},
      {"negative_prompt", negative ? json_text(*negative) : kNull},
      {"height", std::to_string(request.target.size.height)},
      {"width", std::to_string(request.target.size.width)},
      {"num_inference_steps", std::to_string(request.num_inference_steps)},
      {"guidance_scale", repr(request.guidance_scale).text},
      {"seed", std::to_string(picture.seed)},
      {"scheduler", json_text(request.scheduler)},
      {"method", json_text(request.method.name)},
      {"am_strength", repr(request.am_strength).text},
      {"noise", json_text(request.noise)},
      {"vae_tile", json_of(request.tiling)},
      {"pictures_per_batch", std::to_string(request.pictures_per_batch)},
      {"fm_tables", kNull},
      {"made_with", made_with_json(maker)},
  };
  if (stage == Stage::native) settings["stage"] = json_text(name_of(stage));
  return json_object(settings);
}

}  // namespace libfam
