#include "sampling/conditions.h"

#include <stdexcept>
#include <utility>

#include "bundle/contract.h"

namespace libfam {
namespace {

HostTensor zeros_of(const HostTensor& tensor) {
  return HostTensor::zeros(tensor.shape, tensor.dtype);
}

// Rows of one shape after one another, along the first axis.
HostTensor concatenated(const std::vector<const HostTensor*>& rows) {
  HostTensor all = *rows.at(0);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const HostTensor& row = *rows[i];
    if (row.shape != rows[0]->shape) throw std::logic_error("embeddings differ in shape");
    all.bytes.insert(all.bytes.end(), row.bytes.begin(), row.bytes.end());
    all.shape[0] += row.shape[0];
  }
  return all;
}

const TextEmbedding& embedding_of(const TextEmbeddings& embeddings, const std::string& text) {
  const auto found = embeddings.find(text);
  if (found == embeddings.end()) throw std::logic_error("a text was not encoded");
  return found->second;
}

}  // namespace

TextEmbedding TextEmbedding::zeros_like() const {
  TextEmbedding zeros = {.tokens = zeros_of(tokens), .pooled = {}};
  if (pooled) zeros.pooled = zeros_of(*pooled);
  return zeros;
}

std::vector<std::string> texts_to_encode(const Manifest& manifest,
                                         const std::vector<PictureRequest>& pictures) {
  std::vector<std::string> texts;
  for (const PictureRequest& picture : pictures) texts.push_back(picture.prompt);
  if (!manifest.model.guidance) return texts;
  for (const PictureRequest& picture : pictures) {
    if (picture.negative_prompt || !zeros_for_no_negative_prompt(manifest)) {
      texts.push_back(picture.negative_prompt.value_or(""));
    }
  }
  return texts;
}

bool zeros_for_no_negative_prompt(const Manifest& manifest) {
  return manifest.model.force_zeros_for_empty_prompt;
}

Feeds stage_conditions(const Manifest& manifest, const std::vector<PictureRequest>& pictures,
                       const TextEmbeddings& embeddings, double guidance_scale, Size size) {
  std::vector<TextEmbedding> zeros;  // of pictures that have them in place of an embedding
  zeros.reserve(pictures.size());
  std::vector<const TextEmbedding*> rows;
  if (manifest.model.guidance) {
    for (const PictureRequest& picture : pictures) {
      if (!picture.negative_prompt && zeros_for_no_negative_prompt(manifest)) {
        zeros.push_back(embedding_of(embeddings, picture.prompt).zeros_like());
        rows.push_back(&zeros.back());
      } else {
        rows.push_back(&embedding_of(embeddings, picture.negative_prompt.value_or("")));
      }
    }
  }
  for (const PictureRequest& picture : pictures) {
    rows.push_back(&embedding_of(embeddings, picture.prompt));
  }
  std::vector<const HostTensor*> tokens;
  std::vector<const HostTensor*> pooled;
  for (const TextEmbedding* row : rows) {
    tokens.push_back(&row->tokens);
    if (row->pooled) pooled.push_back(&*row->pooled);
  }
  Feeds feeds;
  feeds.emplace(contract::kPromptEmbeds, concatenated(tokens));
  if (manifest.model.takes_guidance_scale()) {
    feeds.emplace(contract::kGuidanceScale, HostTensor::scalar(static_cast<float>(guidance_scale)));
  }
  if (manifest.model.family == "sdxl") {
    feeds.emplace(contract::kPooledPromptEmbeds, concatenated(pooled));
    feeds.emplace(contract::kTimeIds,
                  time_ids(manifest, size, static_cast<std::int64_t>(rows.size())));
  }
  return feeds;
}

HostTensor time_ids(const Manifest& manifest, Size size, std::int64_t rows) {
  const Size told = manifest.size_conditions == "native" ? manifest.native : size;
  const auto height = static_cast<float>(told.height);
  const auto width = static_cast<float>(told.width);
  std::vector<float> ids;
  for (std::int64_t row = 0; row < rows; ++row) {
    ids.insert(ids.end(), {height, width, 0, 0, height, width});
  }
  return HostTensor::from(ids, {rows, 6});
}

}  // namespace libfam
