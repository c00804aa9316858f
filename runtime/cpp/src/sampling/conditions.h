// What a stage feeds at every step: text, guidance, and SDXL's size conditions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "bundle/manifest.h"
#include "sampling/picture_request.h"
#include "sampling/stage_program.h"

namespace libfam {

// What the UNet is told about one text.
struct TextEmbedding {
  HostTensor tokens;                 // float32 [1, 77, D]
  std::optional<HostTensor> pooled;  // float32 [1, P], for SDXL

  // The embedding that SDXL takes for "no negative prompt".
  TextEmbedding zeros_like() const;
};

using TextEmbeddings = std::map<std::string, TextEmbedding, std::less<>>;

// Every text whose embedding the pictures need, in their order, with repetitions.
std::vector<std::string> texts_to_encode(const Manifest& manifest,
                                         const std::vector<PictureRequest>& pictures);

// Whether "no negative prompt" means zeros and not the embedding of an empty text.
bool zeros_for_no_negative_prompt(const Manifest& manifest);

// The feeds of a stage that makes pictures of `size` (pixels): `prompt_embeds` float32 [2B, 77, D]
// with the unconditional half first, [B, 77, D] in a bundle without guidance; `guidance_scale`
// float32 [] where the graphs take it; for SDXL also `pooled_prompt_embeds` [2B, P] and `time_ids`
// [2B, 6]. `embeddings` must hold every text of texts_to_encode.
Feeds stage_conditions(const Manifest& manifest, const std::vector<PictureRequest>& pictures,
                       const TextEmbeddings& embeddings, double guidance_scale, Size size);

// SDXL's (original height, width, crop top, left, target height, width), float32 [rows, 6], every
// row the same. The paper does not state them. (1) Each stage is told its own size, uncropped.
// (2) Both are told the native size. We do what the manifest says; its default is (1), as in a
// direct run.
HostTensor time_ids(const Manifest& manifest, Size size, std::int64_t rows);

}  // namespace libfam
