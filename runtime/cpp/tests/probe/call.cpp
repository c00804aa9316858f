// What a call becomes before anything is loaded, and how its latents are decoded.
#include <charconv>
#include <cstring>

#include "base/python_text.h"
#include "pipeline.h"
#include "probe/probe.h"
#include "sampling/call_warnings.h"
#include "sampling/request.h"
#include "sampling/settings.h"
#include "sampling/tiling.h"

namespace libfam::probe {
namespace {

template <class Value>
void read(const Json& in, const char* name, Value& value) {
  if (in.contains(name)) value = in.at(name).get<Value>();
}

template <class Value>
void read(const Json& in, const char* name, std::optional<Value>& value) {
  if (in.contains(name)) value = in.at(name).get<Value>();
}

// Numbers come as texts, since JSON has no NaN.
double number(const Json& text) {
  const auto digits = text.get<std::string>();
  double value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

void read_number(const Json& in, const char* name, std::optional<double>& value) {
  if (in.contains(name)) value = number(in.at(name));
}

TileChoice tile_from(const Json& in) {
  if (!in.contains("tile")) return {};
  const Json& tile = in.at("tile");
  if (tile.is_null()) return {.kind = TileChoice::Kind::whole};
  return {.kind = TileChoice::Kind::tiles, .tile = tile.at(0), .overlap = tile.at(1)};
}

Call call_from(const Json& in) {
  Call call;
  read(in, "prompts", call.prompts);
  if (in.contains("negative_prompts")) {
    for (const Json& text : in.at("negative_prompts")) {
      call.negative_prompts.push_back(text.is_null() ? std::nullopt
                                                     : std::optional(text.get<std::string>()));
    }
  }
  if (in.contains("scale")) {
    call.scale = {number(in.at("scale").at(0)), number(in.at("scale").at(1))};
  }
  read(in, "height", call.height);
  read(in, "width", call.width);
  read(in, "num_inference_steps", call.num_inference_steps);
  read_number(in, "guidance_scale", call.guidance_scale);
  read(in, "seeds", call.seeds);
  read(in, "one_seed_per_picture", call.one_seed_per_picture);
  read(in, "num_images_per_prompt", call.num_images_per_prompt);
  read(in, "method", call.method);
  read(in, "scheduler", call.scheduler);
  read_number(in, "am_strength", call.am_strength);
  read(in, "native_attention", call.native_attention);
  read(in, "noise", call.noise);
  call.tile = tile_from(in);
  read(in, "pictures_per_batch", call.pictures_per_batch);
  return call;
}

Manifest manifest_of(const Json& in) {
  return Manifest::from_bytes(read_bytes(in.at("manifest").get<std::string>()));
}

Request request_of(const Json& in, const Manifest& manifest) {
  return resolve_request(manifest, in.at("root").get<std::string>(), call_from(in.at("call")),
                         in.value("low_memory", false));
}

Json json_of(const std::vector<PictureRequest>& pictures) {
  Json list = Json::array();
  for (const PictureRequest& picture : pictures) {
    const auto& negative = picture.negative_prompt;
    list.push_back({picture.prompt, negative ? Json(*negative) : Json(), picture.seed});
  }
  return list;
}

Json json_of(const Request& request) {
  const auto& tiling = request.tiling;
  return {{"pictures", json_of(request.pictures)},
          {"target", {request.target.size.height, request.target.size.width, request.target.step}},
          {"num_inference_steps", request.num_inference_steps},
          {"guidance_scale", repr(request.guidance_scale).text},
          {"scheduler", request.scheduler},
          {"method", request.method.name},
          {"am_strength", repr(request.am_strength).text},
          {"noise", request.noise},
          {"tiling", tiling ? Json({tiling->tile, tiling->overlap}) : Json()},
          {"native_attention", request.native_attention},
          {"pictures_per_batch", request.pictures_per_batch}};
}

const Registration kResolve("call.resolve", [](const Json& in) {
  return json_of(request_of(in, manifest_of(in)));
});

// The settings of every picture of a call, as texts.
const Registration kSettings("call.settings", [](const Json& in) {
  const Manifest manifest = manifest_of(in);
  const Request request = request_of(in, manifest);
  const Maker maker = {manifest.model.name, in.at("hash").get<std::string>(),
                       in.at("made_with").get<decltype(Maker::made_with)>()};
  const Stage stage = in.value("native", false) ? Stage::native : Stage::target;
  Json texts = Json::array();
  for (const PictureRequest& picture : request.pictures) {
    texts.push_back(settings_of_picture(maker, request, picture, stage));
  }
  return texts;
});

const Registration kWarnings("call.warnings", [](const Json& in) {
  const Manifest manifest = manifest_of(in);
  CallWarnings warnings;
  warn_without_guidance(request_of(in, manifest), manifest.model, warnings);
  return Json(warnings.sentences());
});

const Registration kAxisTiles("tiling.axis", [](const Json& in) {
  std::vector<float> weights;
  Json places = Json::array();
  for (const AxisTile& tile : axis_tiles(in.at("size"), {in.at("tile"), in.at("overlap")},
                                         in.at("factor").get<std::int64_t>())) {
    places.push_back({tile.start, tile.length});
    weights.insert(weights.end(), tile.weights.begin(), tile.weights.end());
  }
  write_bytes(in.at("path").get<std::string>(), weights.data(), weights.size() * sizeof(float));
  return places;
});

// A decoder that looks at its whole tile: every colour is the nearest sample of its own channel
// plus the tile's first one.
HostTensor decode_nearest(const HostTensor& piece, std::int64_t factor) {
  const std::int64_t height = piece.shape.at(2) * factor;
  const std::int64_t width = piece.shape.at(3) * factor;
  HostTensor image = HostTensor::zeros({1, 3, height, width}, Dtype::float32);
  float* to = image.floats();
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const float* plane = piece.floats() + channel * piece.shape[2] * piece.shape[3];
    for (std::int64_t y = 0; y < height; ++y) {
      const float* line = plane + y / factor * piece.shape[3];
      for (std::int64_t x = 0; x < width; ++x) *to++ = line[x / factor] + piece.floats()[0];
    }
  }
  return image;
}

const Registration kDecodeTiled("tiling.decode", [](const Json& in) {
  const std::string bytes = read_bytes(in.at("latent").get<std::string>());
  HostTensor latent = HostTensor::zeros(in.at("shape").get<Shape>(), Dtype::float32);
  std::memcpy(latent.bytes.data(), bytes.data(), latent.bytes.size());
  const auto factor = in.at("factor").get<std::int64_t>();
  const Tiling tiling = {in.at("tile"), in.at("overlap")};
  std::int64_t tiles = 0;
  const HostTensor image =
      decode_tiled([factor](const HostTensor& piece) { return decode_nearest(piece, factor); },
                   latent, tiling, factor, [&tiles] { ++tiles; });
  write_bytes(in.at("path").get<std::string>(), image.bytes.data(), image.bytes.size());
  const Size size = {latent.shape[2], latent.shape[3]};
  const Size tile = tile_size(size, tiling);
  return Json({tiles, tile_count(size, tiling), tile.height, tile.width});
});

}  // namespace
}  // namespace libfam::probe
