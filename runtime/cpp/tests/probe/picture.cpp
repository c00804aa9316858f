// Pictures as files.
#include "picture/picture.h"

#include <cstring>

#include "probe/probe.h"

namespace libfam::probe {
namespace {

std::string text(const Json& in, const char* name) { return in.at(name).get<std::string>(); }

// A float32 picture [1, 3, height, width] in a file to its bytes in another.
const Registration kRgb("picture.rgb", [](const Json& in) {
  const std::string bytes = read_bytes(text(in, "image"));
  HostTensor image = HostTensor::zeros(in.at("shape").get<Shape>(), Dtype::float32);
  std::memcpy(image.bytes.data(), bytes.data(), image.bytes.size());
  const std::vector<std::uint8_t> rgb = rgb_from_image(image);
  write_bytes(text(in, "path"), rgb.data(), rgb.size());
  return Json(rgb.size());
});

// Colours in a file to a PNG.
const Registration kSave("picture.save", [](const Json& in) {
  const std::string rgb = read_bytes(text(in, "rgb"));
  save_png(text(in, "path"), reinterpret_cast<const std::uint8_t*>(rgb.data()),
           {in.at("height").get<std::int64_t>(), in.at("width").get<std::int64_t>()},
           text(in, "settings"));
  return Json();
});

const Registration kParameters("picture.parameters", [](const Json& in) {
  return Json(parameters_text(text(in, "settings")));
});

}  // namespace
}  // namespace libfam::probe
