// One picture of a call: texts and seed.
#pragma once

#include <optional>
#include <string>

#include "noise/noise_source.h"

namespace libfam {

struct PictureRequest {
  std::string prompt;
  // Nothing is not an empty text: with SDXL it means zeros in place of an embedding.
  std::optional<std::string> negative_prompt;
  Seed seed = 0;
};

}  // namespace libfam
