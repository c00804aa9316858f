#include "sampling/request.h"

#include <algorithm>
#include <array>
#include <limits>
#include <random>

#include "base/error.h"
#include "sampling/arguments.h"
#include "sampling/native_attention.h"
#include "sampling/target_choice.h"
#include "text/tokenizer.h"

namespace libfam {
namespace {

constexpr std::int64_t kMaxPictures = 1000;
constexpr double kMaxGuidanceScale = 1000;

using OptionalText = std::optional<std::string>;

std::vector<OptionalText> negative_prompts_of(const Call& call) {
  const std::size_t count = call.prompts.size();
  std::vector<OptionalText> texts = call.negative_prompts;
  if (texts.empty()) texts.emplace_back();
  if (texts.size() == 1) texts.resize(count, OptionalText(texts.front()));
  for (const OptionalText& text : texts) {
    if (text) check_prompt("the negative prompt", *text, /*may_be_empty=*/true);
  }
  if (texts.size() != count) {
    throw Error(ErrorCode::invalid_request,
                {.what = "prompts and negative prompts do not pair up",
                 .got = repr(std::to_string(count) + " and " + std::to_string(texts.size())),
                 .expected = "as many negative prompts as prompts, or one text for all",
                 .fix = "pass one negative prompt as a str"});
  }
  return texts;
}

std::int64_t picture_count(std::int64_t prompts, std::int64_t per_prompt) {
  whole_number("num_images_per_prompt", per_prompt);
  const bool fits = per_prompt <= std::numeric_limits<std::int64_t>::max() / prompts;
  const std::int64_t count = fits ? prompts * per_prompt : std::numeric_limits<std::int64_t>::max();
  if (count > kMaxPictures) {
    throw Error(ErrorCode::invalid_request, {.what = "too many pictures in one call",
                                             .got = repr(count),
                                             .expected = "at most " + std::to_string(kMaxPictures),
                                             .fix = "make several calls"});
  }
  return count;
}

// Picture `i` has the first seed + i, modulo 2^64; check_seeds sees to what wraps around.
std::vector<Seed> seeds_of(const Call& call, std::size_t count) {
  if (call.one_seed_per_picture || call.seeds.size() > 1) {
    if (call.seeds.size() == count) return call.seeds;
    throw Error(ErrorCode::invalid_request,
                {.what = "seeds and pictures do not pair up",
                 .got = repr(std::to_string(call.seeds.size()) + " seeds, " +
                             std::to_string(count) + " pictures"),
                 .expected = "one seed per picture, or one for all",
                 .fix = "pass one seed; picture i gets seed + i"});
  }
  std::vector<Seed> seeds(count);
  const Seed first = call.seeds.empty() ? Seed{std::random_device{}()} : call.seeds.front();
  for (std::size_t i = 0; i < count; ++i) seeds[i] = first + i;
  return seeds;
}

// One seed for all may leave the range of seeds at some picture.
void check_seeds(const Call& call, const std::vector<PictureRequest>& pictures) {
  if (call.one_seed_per_picture || call.seeds.size() != 1) return;
  for (const PictureRequest& picture : pictures) {
    if (picture.seed >= call.seeds.front()) continue;
    // 2^64 + seed, whose last digits hold all of a seed below the number of pictures.
    static_assert(kMaxPictures < 10'000 - 1616);
    const std::string decimal = "1844674407370955" + std::to_string(1616 + picture.seed);
    throw Error(ErrorCode::invalid_request, {.what = "seed is out of range",
                                             .got = Repr{decimal},
                                             .expected = "an integer in [-2^63, 2^64 - 1]",
                                             .fix = "choose a smaller seed"});
  }
}

std::vector<PictureRequest> pictures_of(const Call& call) {
  if (call.prompts.empty()) {
    throw Error(ErrorCode::invalid_request, {.what = "no prompt",
                                             .got = repr_texts({}),
                                             .expected = "at least one",
                                             .fix = "pass a text"});
  }
  for (const std::string& text : call.prompts) check_prompt("the prompt", text);
  const std::vector<OptionalText> negatives = negative_prompts_of(call);
  const std::int64_t count =
      picture_count(static_cast<std::int64_t>(call.prompts.size()), call.num_images_per_prompt);
  const std::vector<Seed> seeds = seeds_of(call, static_cast<std::size_t>(count));
  std::vector<PictureRequest> pictures;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    const std::size_t prompt = i / static_cast<std::size_t>(call.num_images_per_prompt);
    pictures.push_back({call.prompts[prompt], negatives[prompt], seeds[i]});
  }
  return pictures;
}

// The guidance that is fed; as in diffusers, 1 or less means none, which is 1. A UNet that has the
// scale as a condition (LCM) gets any scale from 1, since it was distilled with
// `guidance_scale - 1` from 0 on.
double guidance_scale_of(const Manifest& manifest, const Call& call) {
  const bool fed = manifest.model.takes_guidance_scale();
  if (!call.guidance_scale) return fed ? std::max(manifest.defaults.guidance_scale, 1.0) : 1.0;
  const double scale = real_number("guidance_scale", *call.guidance_scale, 0, kMaxGuidanceScale);
  if (scale > 1 && !fed) {
    throw Error(ErrorCode::invalid_request,
                {.what = "the bundle was exported without guidance",
                 .got = repr(scale),
                 .expected = "guidance_scale of at most 1",
                 .fix = "leave guidance_scale out, or export without --no-guidance"});
  }
  return std::max(scale, 1.0);
}

std::optional<Tiling> tiling_of(const TileChoice& choice, Size latent, bool low_memory) {
  if (choice.kind == TileChoice::Kind::automatic) return default_tiling(latent, low_memory);
  if (choice.kind == TileChoice::Kind::whole) return std::nullopt;
  const std::int64_t tile = whole_number("tile", choice.tile);
  const std::int64_t quarter = std::max<std::int64_t>(tile / 4, 1);
  const Tiling tiling = checked_tiling(tile, choice.overlap == 0 ? quarter : choice.overlap);
  if (tiling.tile >= std::max(latent.height, latent.width)) return std::nullopt;
  return tiling;
}

std::string native_attention_of(const std::string& mode) {
  const auto& modes = kNativeAttentionModes;
  if (std::find(modes.begin(), modes.end(), mode) != modes.end()) return mode;
  const std::vector<std::string> names(modes.begin(), modes.end());
  throw Error(ErrorCode::invalid_request, {.what = "unknown native_attention",
                                           .got = repr(mode),
                                           .expected = joined(names, " or "),
                                           .fix = "use auto, the default"});
}

std::int64_t steps_of(const Manifest& manifest, const Call& call) {
  if (!call.num_inference_steps) return manifest.defaults.num_inference_steps;
  return whole_number("num_inference_steps", *call.num_inference_steps);
}

}  // namespace

std::int64_t Request::batch() const {
  return std::min(pictures_per_batch, static_cast<std::int64_t>(pictures.size()));
}

Request resolve_request(const Manifest& manifest, const std::string& root, const Call& call,
                        bool low_memory) {
  const std::string method = call.method.value_or(kDefaultMethod);
  // In this order, so that of several mistakes the same one is told of as in Python.
  Request request;
  request.target = choose_target(manifest, root, call);
  request.pictures = pictures_of(call);
  request.num_inference_steps = steps_of(manifest, call);
  request.guidance_scale = guidance_scale_of(manifest, call);
  request.scheduler = call.scheduler.value_or(manifest.defaults.scheduler);
  request.am_strength =
      resolve_am_strength(method, call.am_strength, manifest.defaults.am_strength);
  request.method = method_named(method);
  request.noise = call.noise.value_or(kDefaultNoiseSource);
  const Size latent = manifest.latent_size(request.target.size);
  request.tiling = tiling_of(call.tile, latent, low_memory);
  request.native_attention = native_attention_of(call.native_attention);
  request.pictures_per_batch = whole_number("pictures_per_batch", call.pictures_per_batch);
  noise_source(request.noise, request.pictures.front().seed);  // refuses an unknown name
  check_seeds(call, request.pictures);
  return request;
}

}  // namespace libfam
