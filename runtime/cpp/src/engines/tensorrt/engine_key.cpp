#include "engines/tensorrt/engine_key.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "base/sha256.h"

#ifndef _WIN32
#include <sys/utsname.h>
#endif

namespace libfam {
namespace {

using Json = nlohmann::json;

// As json.dumps writes it: ASCII only.
std::string json_text(const std::string& text) {
  return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string json_text(const std::optional<std::int64_t>& number) {
  return number ? std::to_string(*number) : "null";
}

std::string json_text(const std::vector<std::string>& texts) {
  std::vector<std::string> items;
  for (const std::string& text : texts) items.push_back(json_text(text));
  return "[" + joined(items, ", ") + "]";
}

void read(const Json& value, std::string& field) { field = value.get<std::string>(); }
void read(const Json& value, std::int64_t& field) {
  if (!value.is_number_integer()) throw Json::type_error::create(302, "no integer", &value);
  field = value.get<std::int64_t>();
}
void read(const Json& value, std::optional<std::int64_t>& field) {
  if (!value.is_null()) read(value, field.emplace());
}
void read(const Json& value, std::vector<std::string>& field) {
  field = value.get<std::vector<std::string>>();
}

// Calls `visit` with the name and the member of every field, in the order of their names, which is
// the order of sort_keys.
template <typename Visit>
void for_each_field(const Visit& visit) {
  visit("architecture", &EngineKey::architecture);
  visit("dtype", &EngineKey::dtype);
  visit("flags", &EngineKey::flags);
  visit("gpu", &EngineKey::gpu);
  visit("graph_sha256", &EngineKey::graph_sha256);
  visit("library", &EngineKey::library);
  visit("optimization_level", &EngineKey::optimization_level);
  visit("platform", &EngineKey::platform);
  visit("revision", &EngineKey::revision);
  visit("shapes", &EngineKey::shapes);
  visit("version", &EngineKey::version);
  visit("weights_sha256", &EngineKey::weights_sha256);
  visit("workspace_bytes", &EngineKey::workspace_bytes);
}

// A value as a sentence shows it.
std::string shown(const std::string& text) { return text; }
std::string shown(std::int64_t number) { return std::to_string(number); }
std::string shown(const std::optional<std::int64_t>& number) {
  return number ? std::to_string(*number) : "the default";
}
std::string shown(const std::vector<std::string>& texts) {
  const std::string text = joined(texts, " ");
  return text.empty() ? "none" : text;
}

std::string lower_ascii(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

}  // namespace

std::string EngineKey::json() const {
  std::string text = "{";
  for_each_field([this, &text](const char* name, auto member) {
    if (text.size() > 1) text += ", ";
    text += json_text(std::string(name)) + ": " + json_text(this->*member);
  });
  return text + "}";
}

std::string EngineKey::digest() const { return sha256_hex(json()); }

std::optional<EngineKey> key_from_json(std::string_view text) {
  const Json document = Json::parse(text, nullptr, false);
  if (!document.is_object()) return std::nullopt;
  EngineKey key;
  std::size_t count = 0;
  try {
    for_each_field([&](const char* name, auto member) {
      read(document.at(name), key.*member);
      ++count;
    });
  } catch (const Json::exception&) {
    return std::nullopt;
  }
  if (document.size() != count) return std::nullopt;
  return key;
}

EngineKey engine_key(const Bundle& bundle, const std::string& graph, const SymbolRanges& ranges,
                     const TensorrtTraits& library, const std::string& version, const Gpu& gpu,
                     const BuildSettings& settings) {
  const Manifest& manifest = bundle.manifest();
  const auto sha256_of = [&manifest](const std::string& name) {
    const FileRecord* record = manifest.file(name);
    if (record == nullptr) throw std::logic_error("a graph's file that the bundle does not list");
    return record->sha256;
  };
  const std::string folder = graph.substr(0, graph.rfind('/'));
  std::set<std::string> beside;  // sorted, as in Python
  for (const ExternalData& tensor : bundle.external_data(graph)) {
    beside.insert(folder + "/" + tensor.location);
  }
  std::vector<std::string> weights;
  for (const std::string& name : beside) weights.push_back(sha256_of(name));
  return {.library = library.name,
          .version = version,
          .architecture = gpu.architecture,
          .gpu = gpu.name,
          .platform = platform_name(),
          .graph_sha256 = sha256_of(graph),
          .weights_sha256 = joined(weights, "+"),
          .shapes = describe_ranges(ranges),
          .dtype = manifest.model.dtype,
          .flags = builder_flags(library, settings, manifest.model.dtype),
          .workspace_bytes = settings.workspace_bytes,
          .optimization_level = settings.optimization_level};
}

std::vector<std::string> builder_flags(const TensorrtTraits& library, const BuildSettings& settings,
                                       const std::string& dtype) {
  std::vector<std::string> flags;
  if (settings.uses_tf32(dtype)) flags.emplace_back("TF32");
  if (settings.strip_weights) {
    flags.emplace_back("STRIP_PLAN");
    flags.emplace_back(library.builds_ahead_of_time ? "REFIT" : "REFIT_IDENTICAL");
  }
  if (library.builds_ahead_of_time) flags.emplace_back("REQUIRE_USER_ALLOCATION");
  std::ranges::sort(flags);
  return flags;
}

std::string platform_name() {
#ifdef _WIN32
  return "windows-amd64";
#else
  utsname names{};
  if (::uname(&names) != 0) throw std::logic_error("uname failed");
  return lower_ascii(names.sysname) + "-" + lower_ascii(names.machine);
#endif
}

std::vector<std::string> differences(const EngineKey& old, const EngineKey& wanted) {
  std::vector<std::string> clauses;
  // `words` with the two values in place of its {old} and {new}, which come in this order.
  const auto compare = [&](auto member, std::string words) {
    if (old.*member == wanted.*member) return;
    std::size_t from = 0;
    for (const auto& [mark, value] :
         {std::pair<std::string_view, std::string>{"{old}", shown(old.*member)},
          std::pair<std::string_view, std::string>{"{new}", shown(wanted.*member)}}) {
      const std::size_t at = words.find(mark, from);
      if (at == std::string::npos) break;
      words.replace(at, mark.size(), value);
      from = at + value.size();
    }
    clauses.push_back(std::move(words));
  };
  compare(&EngineKey::library, "it was built with {old}, and {new} was asked for");
  compare(&EngineKey::version, "it was built with version {old} of the library, and this is {new}");
  compare(&EngineKey::architecture, "it was built for {old}, and this is {new}");
  compare(&EngineKey::gpu, "it was built on {old}, and this is {new}");
  compare(&EngineKey::platform, "it was built on {old}, and this is {new}");
  compare(&EngineKey::graph_sha256, "the graph has changed since");
  compare(&EngineKey::weights_sha256, "the weights have changed since");
  compare(&EngineKey::shapes, "it was built for {old}, and {new} was asked for");
  compare(&EngineKey::dtype, "it was built for weights in {old}, and these are in {new}");
  compare(&EngineKey::flags, "it was built with the flags {old}, and {new} were asked for");
  compare(&EngineKey::workspace_bytes,
          "it was built with a workspace of {old}, and {new} was asked for");
  compare(&EngineKey::optimization_level,
          "it was built at optimization level {old}, and {new} was asked for");
  compare(&EngineKey::revision, "it was built by another revision of this package");
  return clauses;
}

}  // namespace libfam
