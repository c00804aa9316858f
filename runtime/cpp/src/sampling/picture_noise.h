// The noise of a batch: one stream per picture.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "noise/noise_source.h"
#include "sampling/picture_request.h"

namespace libfam {

class PictureNoise {
 public:
  explicit PictureNoise(std::vector<std::unique_ptr<NoiseSource>> sources);
  // Fresh streams of the source called `name`. Raises: Error(invalid_request) for its name.
  PictureNoise(const std::string& name, const std::vector<PictureRequest>& pictures);

  // One latent of noise per picture, float32 [B, C, height, width]; `latent_shape` is
  // [C, height, width]. Each picture's draw has the shape [1, C, height, width] and comes from its
  // own stream, so that a picture does not depend on what else is in its batch.
  HostTensor draw(const Shape& latent_shape);

 private:
  std::vector<std::unique_ptr<NoiseSource>> sources_;
};

}  // namespace libfam
