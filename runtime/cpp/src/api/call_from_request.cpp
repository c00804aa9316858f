#include "api/call_from_request.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "base/error.h"

namespace libfam::api {
namespace {

std::optional<std::string> text_or_none(const char* text) {
  if (text == nullptr) return std::nullopt;
  return text;
}

template <class Number, class Value>
std::optional<Number> number_or_none(Value value) {
  if (value == 0) return std::nullopt;
  return static_cast<Number>(value);
}

std::optional<double> pointed_at(const double* number) {
  if (number == nullptr) return std::nullopt;
  return *number;
}

void read_prompts(const fam_request& request, Call& call) {
  const bool several = request.prompts != nullptr;
  if (several == (request.prompt != nullptr)) {
    throw Error(ErrorCode::invalid_request,
                {.what = several ? "both prompt and prompts were given" : "no prompt",
                 .expected = "one of prompt and prompts",
                 .fix = "set one of them"});
  }
  if (request.negative_prompts != nullptr && (!several || request.negative_prompt != nullptr)) {
    throw Error(ErrorCode::invalid_request,
                {.what = several ? "both negative_prompt and negative_prompts were given"
                                 : "negative_prompts were given without prompts",
                 .expected = "negative_prompt, or as many negative_prompts as prompts",
                 .fix = "leave one out"});
  }
  if (!several) {
    call.prompts = {request.prompt};
    if (request.negative_prompt != nullptr) call.negative_prompts = {request.negative_prompt};
    return;
  }
  for (std::size_t i = 0; i < request.prompt_count; ++i) {
    if (request.prompts[i] == nullptr) {
      throw Error(ErrorCode::invalid_request, {.what = "prompts[" + std::to_string(i) + "] is NULL",
                                               .expected = "a text",
                                               .fix = "pass prompt_count texts"});
    }
    call.prompts.emplace_back(request.prompts[i]);
  }
  if (request.negative_prompts != nullptr) {
    for (std::size_t i = 0; i < request.prompt_count; ++i) {
      call.negative_prompts.push_back(text_or_none(request.negative_prompts[i]));
    }
  } else if (request.negative_prompt != nullptr) {
    call.negative_prompts = {request.negative_prompt};
  }
}

void read_size(const fam_request& request, Call& call) {
  if (request.scale != 0 || request.scale_width != 0) {
    const double width = request.scale_width == 0 ? request.scale : request.scale_width;
    call.scale = {request.scale, width};
  }
  call.height = number_or_none<std::int64_t>(request.height);
  call.width = number_or_none<std::int64_t>(request.width);
}

void read_seeds(const fam_request& request, Call& call) {
  const bool listed = request.seeds != nullptr;
  if (listed && request.draw_seed != 0) {
    throw Error(ErrorCode::invalid_request, {.what = "both seeds and draw_seed were given",
                                             .expected = "one of them",
                                             .fix = "leave one out"});
  }
  if (request.draw_seed != 0) {
    call.seeds.clear();
  } else if (listed) {
    call.seeds.assign(request.seeds, request.seeds + request.seed_count);
    call.one_seed_per_picture = true;
  } else {
    call.seeds = {request.seed};
  }
}

TileChoice tile_from(const fam_request& request) {
  if (request.tile <= FAM_TILE_WHOLE && request.tile_overlap != 0) {
    throw Error(ErrorCode::invalid_request, {.what = "tile_overlap was given without a tile",
                                             .got = repr(std::uint64_t{request.tile_overlap}),
                                             .expected = "both tile and tile_overlap",
                                             .fix = "leave tile_overlap out"});
  }
  if (request.tile == FAM_TILE_AUTO) return {};
  if (request.tile == FAM_TILE_WHOLE) return {.kind = TileChoice::Kind::whole};
  return {.kind = TileChoice::Kind::tiles, .tile = request.tile, .overlap = request.tile_overlap};
}

fam_phase phase_from(Phase phase) {
  switch (phase) {
    case Phase::checking:
      return FAM_PHASE_CHECKING;
    case Phase::text:
      return FAM_PHASE_TEXT;
    case Phase::native:
      return FAM_PHASE_NATIVE;
    case Phase::target:
      return FAM_PHASE_TARGET;
    case Phase::decode:
      break;
  }
  return FAM_PHASE_DECODE;
}

fam_progress progress_from(const ProgressEvent& event) {
  fam_progress progress{};
  progress.struct_size = sizeof progress;
  progress.phase = phase_from(event.phase);
  progress.step = static_cast<std::uint64_t>(event.step);
  progress.total = static_cast<std::uint64_t>(event.total);
  progress.picture_index = static_cast<std::uint64_t>(event.picture_index);
  progress.timestep = event.timestep;
  if (event.latent != nullptr) {
    progress.latent = event.latent->floats();
    for (std::size_t i = 0; i < std::min<std::size_t>(event.latent->shape.size(), 4); ++i) {
      progress.latent_shape[i] = static_cast<std::uint64_t>(event.latent->shape[i]);
    }
  }
  return progress;
}

}  // namespace

Call call_from_request(const fam_request& request) {
  Call call;
  read_prompts(request, call);
  read_size(request, call);
  read_seeds(request, call);
  call.num_inference_steps = number_or_none<std::int64_t>(request.num_inference_steps);
  call.guidance_scale = pointed_at(request.guidance_scale);
  call.am_strength = pointed_at(request.am_strength);
  call.num_images_per_prompt = std::max<std::int64_t>(request.num_images_per_prompt, 1);
  call.pictures_per_batch = std::max<std::int64_t>(request.pictures_per_batch, 1);
  call.method = text_or_none(request.method);
  call.scheduler = text_or_none(request.scheduler);
  call.noise = text_or_none(request.noise);
  call.native_attention = text_or_none(request.native_attention).value_or("auto");
  call.tile = tile_from(request);
  call.return_native = request.return_native != 0;
  call.decode = request.latents_only == 0;
  return call;
}

PipelineOptions options_from(const fam_pipeline_options& options) {
  if (options.verify != FAM_VERIFY_FULL && options.verify != FAM_VERIFY_SIZE) {
    throw Error(ErrorCode::invalid_request, {.what = "unknown verify",
                                             .got = repr(static_cast<int>(options.verify)),
                                             .expected = "FAM_VERIFY_FULL or FAM_VERIFY_SIZE",
                                             .fix = "leave it 0, the default"});
  }
  PipelineOptions found;
  found.verify = options.verify == FAM_VERIFY_SIZE ? Verify::size : Verify::full;
  found.backend.name = text_or_none(options.backend).value_or(found.backend.name);
  found.backend.provider = text_or_none(options.provider).value_or(found.backend.provider);
  found.backend.num_threads = static_cast<int>(std::min<std::uint32_t>(options.num_threads, 4096));
  found.backend.low_memory = options.low_memory != 0;
  found.backend.device_index =
      static_cast<int>(std::min<std::uint32_t>(options.device_index, 65'535));
  found.backend.cache_dir = text_or_none(options.cache_dir).value_or("");
  return found;
}

Watcher watcher_from(fam_progress_callback callback, void* user_data, bool wants_latents) {
  if (callback == nullptr) return {};
  return {.on_progress =
              [callback, user_data](const ProgressEvent& event) {
                const fam_progress progress = progress_from(event);
                return callback(&progress, user_data) == 0;
              },
          .wants_latents = wants_latents};
}

}  // namespace libfam::api
