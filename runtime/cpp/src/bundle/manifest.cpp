#include "bundle/manifest.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <stdexcept>

#include "base/error.h"
#include "bundle/contract.h"
#include "bundle/cross_checks.h"
#include "bundle/json_cursor.h"
#include "bundle/manifest_parsing.h"
#include "bundle/strict_json.h"

namespace libfam {
namespace {

// As Python's str() shows a value: a text itself, anything else as repr().
std::string str(const JsonValue& value) { return value.text() ? *value.text() : repr(value).text; }

// What the document says about the program that wrote it.
std::string writer_of(const JsonValue& document) {
  std::vector<std::string> names;
  if (const JsonValue* generator = document.member("generator")) {
    for (const char* key : {"name", "version"}) {
      const JsonValue* name = generator->member(key);
      if (name && !str(*name).empty()) names.push_back(str(*name));
    }
  }
  return names.empty() ? "a newer fam-export" : joined(names, " ");
}

// A newer version is told before anything else that is not right.
void check_version(const JsonValue& document) {
  constexpr std::int64_t kMaxVersion = std::int64_t{1} << 31;
  const std::int64_t version =
      JsonCursor(document).member("format_version").integer(1, kMaxVersion);
  if (version <= kFormatVersion) return;
  const std::string writer = writer_of(document);
  throw Error(
      ErrorCode::bundle_version_unsupported,
      {.what = "the bundle is in a newer format than this package reads",
       .got = repr("format version " + std::to_string(version) + ", written by " + writer),
       .expected = "format version " + std::to_string(kFormatVersion) + " or older",
       .fix = "upgrade this package to the version that wrote it (" + writer +
              ") or a newer one, or export the checkpoint again with the fam-export of this "
              "version"});
}

const TensorSpec* tensor_named(const std::vector<TensorSpec>& tensors, std::string_view name) {
  const auto found = std::ranges::find(tensors, name, &TensorSpec::name);
  return found == tensors.end() ? nullptr : &*found;
}

template <class Part>
const Part* part_named(const std::vector<std::pair<std::string, Part>>& table,
                       std::string_view name) {
  const auto found = std::ranges::find(table, name, &std::pair<std::string, Part>::first);
  return found == table.end() ? nullptr : &found->second;
}

// "2" for (2, 2) and "2x4" for (2, 4), height first.
std::string scale_text(std::pair<double, double> scale) {
  const std::string height = general_text(scale.first);
  return scale.first == scale.second ? height : height + "x" + general_text(scale.second);
}

}  // namespace

std::string Size::text() const { return std::to_string(height) + "x" + std::to_string(width); }

Dtype ModelInfo::tap_dtype() const {
  if (dtype == "fp32") return Dtype::float32;
  if (dtype == "fp16") return Dtype::float16;
  if (dtype == "bf16") return Dtype::bfloat16;
  throw std::logic_error("a model of the dtype " + dtype);
}

const TensorSpec* GraphSpec::input(std::string_view name) const {
  return tensor_named(inputs, name);
}

const TensorSpec* GraphSpec::output(std::string_view name) const {
  return tensor_named(outputs, name);
}

Manifest Manifest::from_bytes(std::string_view data) {
  const JsonValue document = parse_json_object(data, kManifestName);
  check_version(document);
  Manifest manifest = manifest_from(JsonCursor(document));
  check_references(manifest);
  return manifest;
}

const GraphSpec* Manifest::graph(std::string_view name) const { return part_named(graphs, name); }

const FileRecord* Manifest::file(std::string_view name) const { return part_named(files, name); }

Size Manifest::latent_size(Size pixels) const {
  return {.height = pixels.height / model.vae_scale_factor,
          .width = pixels.width / model.vae_scale_factor};
}

std::pair<double, double> Manifest::scale_of(const Target& target) const {
  return {static_cast<double>(target.size.height) / static_cast<double>(native.height),
          static_cast<double>(target.size.width) / static_cast<double>(native.width)};
}

const Target& Manifest::target_for(Size pixels) const {
  const auto found = std::ranges::find(targets, pixels, &Target::size);
  if (found != targets.end()) return *found;
  std::vector<std::string> sizes;
  for (const Target& target : targets) {
    sizes.push_back(target.size.text() + " (scale " + scale_text(scale_of(target)) + ")");
  }
  throw Error(ErrorCode::target_not_built,
              {.what = "the bundle has no target for " + pixels.text() + " pixels",
               .expected = sizes.empty() ? "a bundle with targets (this one has none)"
                                         : "one of " + joined(sizes, ", "),
               .fix = "add it with " + export_command(*this, "--size " + pixels.text())});
}

std::vector<std::string> Manifest::tap_names() const {
  std::vector<std::string> names;
  for (const TapLayer& layer : taps.layers) {
    for (std::string& name : contract::tap_names(layer.name, taps.form)) {
      names.push_back(std::move(name));
    }
  }
  return names;
}

std::vector<TensorSpec> Manifest::tap_specs(std::string_view graph) const {
  const GraphSpec* spec = this->graph(graph);
  if (!spec) throw std::logic_error("no graph " + std::string(graph));
  const std::vector<std::string> names = tap_names();
  const std::set<std::string_view> taps_of_bundle(names.begin(), names.end());
  std::vector<TensorSpec> specs;
  std::ranges::copy_if(spec->inputs, std::back_inserter(specs), [&](const TensorSpec& input) {
    return taps_of_bundle.contains(input.name);
  });
  return specs;
}

}  // namespace libfam
