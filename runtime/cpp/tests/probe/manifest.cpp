// manifest.*: the reader of manifest.json, and what a manifest answers.
#include "bundle/manifest.h"

#include "base/python_text.h"
#include "bundle/paths.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

// Bytes that travel in JSON as a text of the code points 0 to 255.
std::string bytes_from(const Json& text) {
  std::string bytes;
  for (const char32_t c : code_points(text.get_ref<const std::string&>())) {
    bytes += static_cast<char>(static_cast<unsigned char>(c));
  }
  return bytes;
}

template <class T>
Json json_from(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json json_from(Size size) { return {{"height", size.height}, {"width", size.width}}; }

Json json_from(const ModelInfo& model) {
  Json loras = Json::array();
  for (const LoraInfo& lora : model.loras) {
    loras.push_back({{"name", lora.name}, {"sha256", lora.sha256}, {"strength", lora.strength}});
  }
  return {{"name", model.name},
          {"family", model.family},
          {"dtype", model.dtype},
          {"guidance", model.guidance},
          {"guidance_embedding", model.guidance_embedding},
          {"loras", loras},
          {"latent_channels", model.latent_channels},
          {"vae_scale_factor", model.vae_scale_factor},
          {"vae_scaling_factor", model.vae_scaling_factor},
          {"size_multiple", model.size_multiple},
          {"force_zeros_for_empty_prompt", model.force_zeros_for_empty_prompt},
          {"checkpoint_sha256", model.checkpoint_sha256}};
}

Json json_from(const Target& target) {
  return {{"height", target.size.height},
          {"width", target.size.width},
          {"step", target.step},
          {"upsample", target.upsample},
          {"kernels", target.kernels}};
}

Json json_from(const TapLayer& layer) {
  return {{"name", layer.name},
          {"heads", layer.heads},
          {"channels", layer.channels},
          {"tokens", {layer.tokens.height, layer.tokens.width}}};
}

Json json_from(const TextEncoderInfo& encoder) {
  return {{"graph", encoder.graph},
          {"tokenizer", encoder.tokenizer},
          {"max_length", encoder.max_length},
          {"pad_token_id", encoder.pad_token_id},
          {"bos_token_id", encoder.bos_token_id},
          {"eos_token_id", encoder.eos_token_id}};
}

Json json_from(const TensorSpec& tensor) {
  Json shape = Json::array();
  for (const Dimension& dimension : tensor.shape) {
    shape.push_back(std::visit([](const auto& held) { return Json(held); }, dimension));
  }
  return {{"name", tensor.name}, {"dtype", name_of(tensor.dtype)}, {"shape", shape}};
}

template <class Part>
Json list_from(const std::vector<Part>& parts) {
  Json list = Json::array();
  for (const Part& part : parts) list.push_back(json_from(part));
  return list;
}

Json json_from(const GraphSpec& graph) {
  return {{"inputs", list_from(graph.inputs)},
          {"outputs", list_from(graph.outputs)},
          {"activation_bytes", graph.activation_bytes}};
}

Json json_from(const FileRecord& record) {
  return {{"bytes", record.bytes}, {"sha256", record.sha256}};
}

// A list of pairs, since the order is part of the answer.
template <class Part>
Json table_from(const std::vector<std::pair<std::string, Part>>& table) {
  Json pairs = Json::array();
  for (const auto& [name, part] : table) pairs.push_back({name, json_from(part)});
  return pairs;
}

Json json_from(const NoiseScheduleInfo& schedule) {
  return {{"num_train_timesteps", schedule.num_train_timesteps},
          {"beta_start", schedule.beta_start},
          {"beta_end", schedule.beta_end},
          {"beta_schedule", schedule.beta_schedule},
          {"trained_betas", json_from(schedule.trained_betas)},
          {"rescale_betas_zero_snr", schedule.rescale_betas_zero_snr},
          {"prediction_type", schedule.prediction_type},
          {"timestep_spacing", json_from(schedule.timestep_spacing)},
          {"steps_offset", schedule.steps_offset},
          {"set_alpha_to_one", schedule.set_alpha_to_one},
          {"final_sigmas_type", schedule.final_sigmas_type},
          {"use_karras_sigmas", schedule.use_karras_sigmas},
          {"lower_order_final", schedule.lower_order_final},
          {"euler_at_final", schedule.euler_at_final},
          {"lambda_min_clipped", json_from(schedule.lambda_min_clipped)},
          {"original_inference_steps", schedule.original_inference_steps},
          {"timestep_scaling", schedule.timestep_scaling}};
}

// Every field but the free-form `check`, which C++ does not keep.
Json json_from(const Manifest& manifest) {
  const auto& [name, version] = manifest.generator;
  const FrequencyModulationInfo& fm = manifest.frequency_modulation;
  const Defaults& defaults = manifest.defaults;
  return {{"format_version", manifest.format_version},
          {"generator", {{"name", name}, {"version", version}}},
          {"model", json_from(manifest.model)},
          {"native", json_from(manifest.native)},
          {"targets", list_from(manifest.targets)},
          {"taps", {{"form", manifest.taps.form}, {"layers", list_from(manifest.taps.layers)}}},
          {"frequency_modulation",
           {{"cutoff_reference", fm.cutoff_reference},
            {"cutoff_constant", fm.cutoff_constant},
            {"inside_box", fm.inside_box}}},
          {"upsample", {{"space", manifest.upsample.space}, {"mode", manifest.upsample.mode}}},
          {"size_conditions", json_from(manifest.size_conditions)},
          {"noise_schedule", json_from(manifest.noise_schedule)},
          {"text_encoders", list_from(manifest.text_encoders)},
          {"vae", {{"encoder", manifest.vae.encoder}, {"decoder", manifest.vae.decoder}}},
          {"defaults",
           {{"scheduler", defaults.scheduler},
            {"num_inference_steps", defaults.num_inference_steps},
            {"guidance_scale", defaults.guidance_scale},
            {"am_strength", defaults.am_strength}}},
          {"graphs", table_from(manifest.graphs)},
          {"files", table_from(manifest.files)}};
}

Manifest manifest_in(const Json& in) {
  return Manifest::from_bytes(in.contains("path") ? read_bytes(in["path"])
                                                  : bytes_from(in.at("data")));
}

Json per_graph(const Manifest& manifest) {
  Json answers = Json::object();
  for (const auto& [name, graph] : manifest.graphs) {
    answers[name] = {{"tap_specs", list_from(manifest.tap_specs(name))}};
  }
  return answers;
}

const Registration kRead("manifest.read",
                         [](const Json& in) { return json_from(manifest_in(in)); });

const Registration kCheckName("manifest.check_name", [](const Json& in) {
  return check_name(in.at("name").get_ref<const std::string&>());
});

const Registration kAnswers("manifest.answers", [](const Json& in) {
  const Manifest manifest = manifest_in(in);
  Json scales = Json::array();
  for (const Target& target : manifest.targets) scales.push_back(manifest.scale_of(target));
  const std::string name = in.at("graph");
  const GraphSpec* graph = manifest.graph(name);
  const FileRecord* file = manifest.file(name);
  return Json{{"scales", scales},
              {"latent_size", json_from(manifest.latent_size(manifest.native))},
              {"tap_names", manifest.tap_names()},
              {"tap_dtype", name_of(manifest.model.tap_dtype())},
              {"takes_guidance_scale", manifest.model.takes_guidance_scale()},
              {"graphs", per_graph(manifest)},
              {"graph", graph ? json_from(*graph) : Json(nullptr)},
              {"file", file ? json_from(*file) : Json(nullptr)}};
});

const Registration kTargetFor("manifest.target_for", [](const Json& in) {
  const Manifest manifest = manifest_in(in);
  return json_from(manifest.target_for({.height = in.at("height"), .width = in.at("width")}));
});

const Registration kExportCommand("manifest.export_command", [](const Json& in) {
  std::optional<std::string> root;
  if (in.contains("root")) root = in["root"];
  return export_command(manifest_in(in), in.at("option"), root);
});

}  // namespace
}  // namespace libfam::probe
