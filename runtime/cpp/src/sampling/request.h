// A call of the pipeline, checked and with every default filled in, before anything is loaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "pipeline.h"
#include "sampling/methods.h"
#include "sampling/picture_request.h"
#include "sampling/tiling.h"

namespace libfam {

// Everything that decides the pictures of a call, and how they are made.
struct Request {
  std::vector<PictureRequest> pictures;
  Target target;
  std::int64_t num_inference_steps = 1;
  double guidance_scale = 1;  // what is fed: 1 is none
  std::string scheduler;
  Method method;
  double am_strength = 0;  // lambda of Eq. 7
  std::string noise;
  std::optional<Tiling> tiling;  // of the VAE decode at the target size; nothing is one piece
  std::string native_attention;  // how taps are kept, which changes no bit of a picture
  std::int64_t pictures_per_batch = 1;

  // Pictures that go through a graph at once, at most.
  std::int64_t batch() const;
};

// Checks the arguments of a call to the bundle of `manifest` at `root`, and fills in its defaults.
// Raises: Error(target_not_built) if the bundle has no such size; Error(invalid_request) if another
// argument cannot be used.
Request resolve_request(const Manifest& manifest, const std::string& root, const Call& call,
                        bool low_memory);

}  // namespace libfam
