#include "bundle/cross_checks.h"

#include <array>
#include <set>

#include "bundle/graph_interfaces.h"
#include "bundle/json_cursor.h"

namespace libfam {
namespace {

constexpr std::array<std::string_view, 2> kWeights = {"unet/weights.bin", "unet/weights.json"};

// The names of a table, for look-ups that stay fast in a hostile one.
template <class Table>
std::set<std::string_view> names_of(const Table& table) {
  std::set<std::string_view> names;
  for (const auto& [name, part] : table) names.insert(name);
  return names;
}

class ReferenceCheck {
 public:
  explicit ReferenceCheck(const Manifest& manifest)
      : manifest_(manifest), files_(names_of(manifest.files)), graphs_(names_of(manifest.graphs)) {}

  void files() const {
    if (files_.contains(kManifestName)) {
      throw wrong_in_manifest("files", repr(kManifestName), "every file except itself");
    }
    for (const auto& [name, record] : manifest_.files) refuse_file_as_folder(name);
    std::vector<std::string> listed;
    for (const std::string_view name : kWeights) {
      if (files_.contains(name)) listed.emplace_back(name);
    }
    if (listed.size() == 1) {
      throw wrong_in_manifest(
          "files", repr_texts(listed),
          std::string(kWeights[0]) + " and " + std::string(kWeights[1]) + " together");
    }
  }

  void graphs() const {
    for (const auto& [name, spec] : manifest_.graphs) {
      if (!name.ends_with(".onnx")) {
        throw wrong_in_manifest("graphs", repr(name), "a name that ends with .onnx");
      }
      require_file(name, "graphs[" + repr(name).text + "]");
    }
    require_graph(kNativeGraph, "the native step");
    require_graph(manifest_.vae.encoder, "vae.encoder");
    require_graph(manifest_.vae.decoder, "vae.decoder");
    for (std::size_t i = 0; i < manifest_.targets.size(); ++i) {
      const Target& target = manifest_.targets[i];
      const std::string place = "targets[" + std::to_string(i) + "].";
      require_graph(target.step, place + "step");
      require_graph(target.upsample, place + "upsample");
      require_file(target.kernels, place + "kernels");
    }
  }

  void text_encoders() const {
    if (manifest_.text_encoders.empty()) {
      throw wrong_in_manifest("text_encoders", repr(0), "at least one text encoder");
    }
    for (std::size_t i = 0; i < manifest_.text_encoders.size(); ++i) {
      const TextEncoderInfo& encoder = manifest_.text_encoders[i];
      const std::string place = "text_encoders[" + std::to_string(i) + "].";
      require_graph(encoder.graph, place + "graph");
      require_file(encoder.tokenizer, place + "tokenizer");
    }
  }

 private:
  void refuse_file_as_folder(const std::string& name) const {
    for (std::size_t end = name.find('/'); end < name.size(); end = name.find('/', end + 1)) {
      const std::string folder = name.substr(0, end);
      if (files_.contains(folder)) {
        throw wrong_in_manifest("files", repr(name), folder + " to be a file or a folder");
      }
    }
  }

  void require_file(const std::string& name, const std::string& place) const {
    if (!files_.contains(name)) {
      throw wrong_in_manifest(place, repr(name), "a file listed in files");
    }
  }

  void require_graph(const std::string& name, const std::string& place) const {
    if (!graphs_.contains(name)) {
      throw wrong_in_manifest(place, repr(name), "a file listed in graphs");
    }
  }

  const Manifest& manifest_;
  std::set<std::string_view> files_;
  std::set<std::string_view> graphs_;
};

void check_multiple(const std::string& place, Size size, std::int64_t multiple) {
  if (size.height % multiple != 0 || size.width % multiple != 0) {
    throw wrong_in_manifest(
        place, repr(size.text()),
        "sides that are multiples of size_multiple, " + std::to_string(multiple));
  }
}

void check_sizes(const Manifest& manifest) {
  const ModelInfo& model = manifest.model;
  const Size native = manifest.native;
  if (model.size_multiple % model.vae_scale_factor != 0) {
    throw wrong_in_manifest(
        "model.size_multiple", repr(model.size_multiple),
        "a multiple of vae_scale_factor, " + std::to_string(model.vae_scale_factor));
  }
  check_multiple("native", native, model.size_multiple);
  const Size* previous = nullptr;
  for (std::size_t i = 0; i < manifest.targets.size(); ++i) {
    const Size& size = manifest.targets[i].size;
    const std::string place = "targets[" + std::to_string(i) + "]";
    check_multiple(place, size, model.size_multiple);
    if (size.height < native.height || size.width < native.width) {
      throw wrong_in_manifest(place, repr(size.text()),
                              "no side smaller than native, " + native.text());
    }
    if (previous && size <= *previous) {
      throw wrong_in_manifest(place, repr(size.text()),
                              "sorted and unique sizes, after " + previous->text());
    }
    previous = &size;
  }
}

void check_model(const Manifest& manifest) {
  if (manifest.model.guidance && manifest.model.guidance_embedding) {
    throw wrong_in_manifest("model.guidance_embedding", repr("true together with guidance"),
                            "at most one of guidance and guidance_embedding");
  }
  const bool is_sdxl = manifest.model.family == "sdxl";
  if (is_sdxl != manifest.size_conditions.has_value()) {
    throw wrong_in_manifest("size_conditions", repr(manifest.size_conditions.value_or("null")),
                            is_sdxl ? "'stage' or 'native' for sdxl" : "null for sd");
  }
  const std::int64_t steps = manifest.noise_schedule.num_train_timesteps;
  if (manifest.defaults.num_inference_steps > steps) {
    throw wrong_in_manifest("defaults.num_inference_steps",
                            repr(manifest.defaults.num_inference_steps),
                            "at most num_train_timesteps, " + std::to_string(steps));
  }
}

void check_taps(const Manifest& manifest) {
  std::set<std::string_view> names;
  const Size latent = manifest.latent_size(manifest.native);
  for (std::size_t i = 0; i < manifest.taps.layers.size(); ++i) {
    const TapLayer& layer = manifest.taps.layers[i];
    const std::string place = "taps.layers[" + std::to_string(i) + "]";
    if (!names.insert(layer.name).second) {
      throw wrong_in_manifest(place, repr(layer.name), "every layer once");
    }
    if (layer.channels % layer.heads != 0) {
      throw wrong_in_manifest(place, repr(layer.channels),
                              "channels divisible by " + std::to_string(layer.heads) + " heads");
    }
    if (layer.tokens.height > latent.height || layer.tokens.width > latent.width) {
      throw wrong_in_manifest(place,
                              repr_tuple({repr(layer.tokens.height), repr(layer.tokens.width)}),
                              "a grid within the latent, " + latent.text());
    }
  }
}

}  // namespace

void check_references(const Manifest& manifest) {
  const ReferenceCheck references(manifest);
  references.files();
  references.graphs();
  references.text_encoders();
  check_sizes(manifest);
  check_model(manifest);
  check_taps(manifest);
  check_graph_interfaces(manifest);
}

}  // namespace libfam
