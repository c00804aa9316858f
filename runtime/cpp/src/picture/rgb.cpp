#include <cmath>
#include <stdexcept>

#include "picture/picture.h"

namespace libfam {
namespace {

constexpr std::int64_t kChannels = 3;

std::uint8_t colour(float value) {
  const float scaled = (value + 1.0F) * 127.5F;
  if (!(scaled > 0.0F)) return 0;  // NaN, too: its conversion to an integer would be undefined
  if (scaled >= 255.0F) return 255;
  return static_cast<std::uint8_t>(std::nearbyint(scaled));
}

}  // namespace

std::vector<std::uint8_t> rgb_from_image(const HostTensor& image) {
  const bool fits = image.dtype == Dtype::float32 && image.shape.size() == 4 &&
                    image.shape[0] == 1 && image.shape[1] == kChannels;
  if (!fits) throw std::logic_error("a picture is float32 [1, 3, height, width]");
  const auto pixels = static_cast<std::size_t>(image.shape[2] * image.shape[3]);
  std::vector<std::uint8_t> rgb(pixels * kChannels);
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    const float* plane = image.floats() + channel * pixels;
    for (std::size_t i = 0; i < pixels; ++i) rgb[i * kChannels + channel] = colour(plane[i]);
  }
  return rgb;
}

}  // namespace libfam
