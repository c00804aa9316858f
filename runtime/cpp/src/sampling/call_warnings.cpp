#include "sampling/call_warnings.h"

#include <algorithm>

namespace libfam {
namespace {

bool has_negative_prompt(const PictureRequest& picture) {
  return picture.negative_prompt && !picture.negative_prompt->empty();
}

std::string why_unused(const ModelInfo& model) {
  if (model.guidance) return "guidance_scale is 1 or less";
  if (model.guidance_embedding) {
    return "this checkpoint takes the guidance scale as a condition, and no second text";
  }
  return "the bundle was exported without guidance";
}

}  // namespace

void CallWarnings::add(const std::string& sentence) {
  const bool known = std::find(sentences_.begin(), sentences_.end(), sentence) != sentences_.end();
  if (!known) sentences_.push_back(sentence);
}

void warn_without_guidance(const Request& request, const ModelInfo& model, CallWarnings& warnings) {
  if (model.guidance && request.guidance_scale > 1) return;
  if (model.guidance) {
    warnings.add(
        "guidance_scale is 1 or less: the picture is made without guidance, but the graphs of this "
        "bundle compute both halves all the same, at twice the cost; export with --no-guidance to "
        "save it");
  }
  if (std::any_of(request.pictures.begin(), request.pictures.end(), has_negative_prompt)) {
    warnings.add("the negative prompt has no effect: " + why_unused(model));
  }
}

}  // namespace libfam
