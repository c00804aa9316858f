#include "sampling/picture_noise.h"

#include <utility>

namespace libfam {

PictureNoise::PictureNoise(std::vector<std::unique_ptr<NoiseSource>> sources)
    : sources_(std::move(sources)) {}

PictureNoise::PictureNoise(const std::string& name, const std::vector<PictureRequest>& pictures) {
  for (const PictureRequest& picture : pictures) {
    sources_.push_back(noise_source(name, picture.seed));
  }
}

HostTensor PictureNoise::draw(const Shape& latent_shape) {
  Shape one = latent_shape;
  one.insert(one.begin(), 1);
  std::vector<float> values;
  for (const auto& source : sources_) {
    const std::vector<float> piece = source->normal(one);
    values.insert(values.end(), piece.begin(), piece.end());
  }
  one[0] = static_cast<std::int64_t>(sources_.size());
  return HostTensor::from(values, std::move(one));
}

}  // namespace libfam
