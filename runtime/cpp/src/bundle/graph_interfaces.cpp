#include "bundle/graph_interfaces.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "bundle/contract.h"
#include "bundle/json_cursor.h"

namespace libfam {
namespace {

// Every latent of a step graph.
constexpr std::array<std::string_view, 7> kLatents = {
    contract::kLatent,          contract::kPreviousPrediction, contract::kStepNoise,
    contract::kReferenceLatent, contract::kReferenceNoise,     contract::kNextLatent,
    contract::kPrediction};

using Names = std::vector<std::string>;

Names operator+(Names first, const Names& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

Names step_inputs(const ModelInfo& model) {
  Names names = {contract::kLatent,           contract::kTimestep,
                 contract::kStepCoefficients, contract::kPreviousPrediction,
                 contract::kStepNoise,        contract::kPromptEmbeds};
  if (model.takes_guidance_scale()) names.emplace_back(contract::kGuidanceScale);
  if (model.family == "sdxl") {
    names.emplace_back(contract::kPooledPromptEmbeds);
    names.emplace_back(contract::kTimeIds);
  }
  return names;
}

Names target_inputs() {
  return {contract::kReferenceLatent, contract::kReferenceNoise, contract::kFmKernelRows,
          contract::kFmKernelColumns, contract::kFmWeight,       contract::kAmStrength};
}

std::string place_of(std::string_view graph) { return "graphs[" + repr(graph).text + "]"; }

Repr shape_repr(const SymbolicShape& shape) {
  std::vector<Repr> dimensions;
  for (const Dimension& dimension : shape) {
    dimensions.push_back(std::visit([](const auto& held) { return repr(held); }, dimension));
  }
  return repr_tuple(dimensions);
}

Repr interface_repr(const TensorSpec& spec) {
  return repr_tuple({repr(name_of(spec.dtype)), shape_repr(spec.shape)});
}

// `specs` have the names in `required`, and no other.
void check_names(const std::string& place, const std::vector<TensorSpec>& specs,
                 const Names& required) {
  std::set<std::string_view> have;
  for (const TensorSpec& spec : specs) have.insert(spec.name);
  for (const std::string& name : required) {
    if (!have.contains(name)) {
      throw wrong_in_manifest(place, repr("no " + name), joined(required, ", "));
    }
  }
  for (const std::string& name : required) have.erase(name);
  if (!have.empty()) {
    throw Error(ErrorCode::bundle_version_unsupported,
                {.what = "manifest.json: " + place + " has a name this version does not know",
                 .got = repr(*have.begin()),
                 .expected = joined(required, ", "),
                 .fix = "upgrade this package, or export the checkpoint again with this version"});
  }
}

class InterfaceCheck {
 public:
  explicit InterfaceCheck(const Manifest& manifest)
      : manifest_(manifest), taps_(manifest.tap_names()) {
    for (const auto& [name, spec] : manifest.graphs) graphs_.emplace(name, &spec);
    for (const TensorSpec& spec : graph(kNativeGraph).outputs) given_.emplace(spec.name, &spec);
  }

  void step_graphs() const {
    const Names outputs = {contract::kNextLatent, contract::kPrediction};
    const Names inputs = step_inputs(manifest_.model);
    const GraphSpec& native = graph(kNativeGraph);
    check_names(place_of(kNativeGraph) + ".inputs", native.inputs, inputs);
    check_names(place_of(kNativeGraph) + ".outputs", native.outputs, outputs + taps_);
    check_tap_shapes();
    check_latents(kNativeGraph, manifest_.native);
    for (const Target& target : manifest_.targets) {
      const GraphSpec& step = graph(target.step);
      const std::string place = place_of(target.step);
      check_names(place + ".inputs", step.inputs, inputs + target_inputs() + taps_);
      check_names(place + ".outputs", step.outputs, outputs);
      check_latents(target.step, target.size);
      check_taps_of(target.step);
    }
  }

  // The graphs around the UNet have the names that the runtime calls them by.
  void other_graphs() const {
    for (const Target& target : manifest_.targets) {
      check_interface(target.upsample, contract::kLatent, {contract::kReferenceLatent});
    }
    check_interface(manifest_.vae.encoder, contract::kImage, {contract::kLatent});
    check_interface(manifest_.vae.decoder, contract::kLatent, {contract::kImage});
    bool has_pooled = false;
    for (const TextEncoderInfo& encoder : manifest_.text_encoders) {
      Names outputs = {contract::kPromptEmbeds};
      if (graph(encoder.graph).output(contract::kPooledPromptEmbeds)) {
        outputs.emplace_back(contract::kPooledPromptEmbeds);
        has_pooled = true;
      }
      check_interface(encoder.graph, contract::kInputIds, outputs);
    }
    if (manifest_.model.family == "sdxl" && !has_pooled) {
      throw wrong_in_manifest("text_encoders",
                              repr(std::string("no ") + contract::kPooledPromptEmbeds),
                              "one encoder of an sdxl model to give it");
    }
  }

 private:
  const GraphSpec& graph(std::string_view name) const { return *graphs_.at(name); }

  // Every latent of a step graph has the size of its stage.
  void check_latents(std::string_view name, Size pixels) const {
    const Size size = manifest_.latent_size(pixels);
    const SymbolicShape shape = {"B", manifest_.model.latent_channels, size.height, size.width};
    for (const auto* tensors : {&graph(name).inputs, &graph(name).outputs}) {
      for (const TensorSpec& tensor : *tensors) {
        if (std::ranges::find(kLatents, tensor.name) == kLatents.end()) continue;
        if (tensor.dtype == Dtype::float32 && tensor.shape == shape) continue;
        throw wrong_in_manifest(place_of(name) + ": " + tensor.name, interface_repr(tensor),
                                "float32 " + shape_repr(shape).text);
      }
    }
  }

  // Each tap of the native graph has the dtype of the model and the shape of its layer.
  void check_tap_shapes() const {
    const std::string batch = manifest_.model.guidance ? "2B" : "B";
    const Dtype dtype = manifest_.model.tap_dtype();
    for (const TapLayer& layer : manifest_.taps.layers) {
      const std::int64_t n = layer.token_count();
      const SymbolicShape shape = manifest_.taps.form == "maps"
                                      ? SymbolicShape{batch, layer.heads, n, n}
                                      : SymbolicShape{batch, n, layer.channels};
      for (const std::string& name : contract::tap_names(layer.name, manifest_.taps.form)) {
        const TensorSpec& spec = *given_.at(name);
        if (spec.dtype == dtype && spec.shape == shape) continue;
        throw wrong_in_manifest(place_of(kNativeGraph) + ".outputs: " + name, interface_repr(spec),
                                std::string("what model.dtype and the layer say, ") +
                                    name_of(dtype) + " " + shape_repr(shape).text);
      }
    }
  }

  // A target's taps are those of the native graph: one buffer serves both.
  void check_taps_of(const std::string& step) const {
    for (const TensorSpec& tap : manifest_.tap_specs(step)) {
      const TensorSpec& given = *given_.at(tap.name);
      if (tap == given) continue;
      throw wrong_in_manifest(place_of(step) + ".inputs: " + tap.name, interface_repr(tap),
                              "what the native graph gives, " + shape_repr(given.shape).text);
    }
  }

  void check_interface(const std::string& name, const std::string& input,
                       const Names& outputs) const {
    check_names(place_of(name) + ".inputs", graph(name).inputs, {input});
    check_names(place_of(name) + ".outputs", graph(name).outputs, outputs);
  }

  const Manifest& manifest_;
  Names taps_;
  std::map<std::string_view, const GraphSpec*> graphs_;
  std::map<std::string_view, const TensorSpec*> given_;  // by the native graph
};

}  // namespace

void check_graph_interfaces(const Manifest& manifest) {
  const InterfaceCheck check(manifest);
  check.step_graphs();
  check.other_graphs();
}

}  // namespace libfam
