// Pictures as 8-bit RGB, and as PNG files that carry the settings which made them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "bundle/manifest.h"

namespace libfam {

// 8-bit RGB [height, width, 3] from a picture, float32 [1, 3, height, width], in [-1, 1]:
// clip((x + 1) * 127.5, 0, 255) in float32, rounded half to even.
std::vector<std::uint8_t> rgb_from_image(const HostTensor& image);

// The settings in the words that web interfaces show; `settings_json` as settings_of_picture gives.
std::string parameters_text(const std::string& settings_json);

// The bytes of a PNG with two uncompressed iTXt chunks before the pixels: `fam`, the settings, and
// `parameters`. Without settings (an empty text) it has neither.
std::vector<std::uint8_t> png_from_rgb(const std::uint8_t* rgb, Size size,
                                       const std::string& settings_json);

// The file appears whole or not at all. Raises: Error(storage).
void save_png(const std::string& path, const std::uint8_t* rgb, Size size,
              const std::string& settings_json);

}  // namespace libfam
