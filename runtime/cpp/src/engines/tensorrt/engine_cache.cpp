#include "engines/tensorrt/engine_cache.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/error.h"

namespace libfam {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kSlugCharacters = 64;
constexpr std::size_t kKeyCharacters = 16;
constexpr std::string_view kGraphSuffix = ".onnx";
constexpr const char* kPlanSuffix = ".plan";
constexpr const char* kKernelsSuffix = ".kernels";

bool is_safe(char32_t c) {
  return (c >= U'a' && c <= U'z') || (c >= U'0' && c <= U'9') || c == U'.' || c == U'_' ||
         c == U'-';
}

// str.lower(), as far as it gives a character that is safe: the two that are not ASCII are the
// Kelvin sign and the capital i with a dot, which becomes an i and a combining dot.
char32_t lowered(char32_t c) {
  if (c == U'\u212A') return U'k';
  if (c == U'\u0130') return U'i';
  return c >= U'A' && c <= U'Z' ? c - U'A' + U'a' : c;
}

std::string graph_slug(const std::string& graph) {
  std::string_view stem = graph;
  if (stem.ends_with(kGraphSuffix)) stem.remove_suffix(kGraphSuffix.size());
  return slug(stem);
}

std::string folder_of(const EngineKey& key) {
  const std::string gpu = key.gpu.empty() ? key.architecture : key.architecture + "-" + key.gpu;
  return slug(key.library + "-" + key.version + "-" + gpu + "-" + key.platform);
}

struct Details {
  std::optional<EngineKey> key;
  std::string graph;
};

// What a record says of an engine; `text` is a JSON object.
Details details_from(const std::string& text) {
  const Json document = Json::parse(text, nullptr, false);
  Details details;
  if (!document.is_object()) return details;
  if (const auto key = document.find("key"); key != document.end()) {
    details.key = key_from_json(key->dump());
  }
  if (const auto graph = document.find("graph"); graph != document.end() && graph->is_string()) {
    details.graph = graph->get<std::string>();
  }
  return details;
}

// Whether the two are built alike, but for shapes and limits.
bool is_alike(EngineKey built, const EngineKey& wanted) {
  built.shapes = wanted.shapes;
  built.workspace_bytes = wanted.workspace_bytes;
  built.optimization_level = wanted.optimization_level;
  return built == wanted;
}

// Sizes that `ranges` holds besides one, and how far its best ones are from `sizes`.
std::pair<std::int64_t, std::int64_t> width_of(const SymbolRanges& ranges, const Sizes& sizes) {
  std::int64_t width = 0;
  std::int64_t distance = 0;
  for (const auto& [symbol, range] : ranges) {
    width += range.maximum - range.minimum;
    distance += std::abs(range.optimum - sizes.at(symbol));
  }
  return {width, distance};
}

}  // namespace

EngineCache::EngineCache(const std::string& root)
    : store_(root.empty() ? default_cache_dir() : root) {}

std::string EngineCache::plan_name(const std::string& model, const std::string& graph,
                                   const EngineKey& key) {
  return folder_of(key) + "/" + slug(model) + "/" + graph_slug(graph) + "-" +
         key.digest().substr(0, kKeyCharacters) + kPlanSuffix;
}

PlanSearch EngineCache::find(const std::string& model, const std::string& graph,
                             const EngineKey& key) const {
  const std::string name = plan_name(model, graph, key);
  StoreReading<StoredFile> reading = store_.read(name);
  if (!reading.damage.empty()) {
    return {std::nullopt, "The engine of " + graph + " is refused: " + reading.damage + "."};
  }
  if (!reading.found) return {std::nullopt, why_another(model, graph, key)};
  const std::optional<SymbolRanges> ranges = ranges_from_text(key.shapes);
  if (details_from(reading.found->details).key != key || !ranges) {
    return {std::nullopt, "The engine of " + graph + " is refused: its record is of another."};
  }
  return {CachedPlan{std::move(reading.found->data), name, *ranges}, ""};
}

std::optional<CachedPlan> EngineCache::find_for_sizes(const std::string& model,
                                                      const std::string& graph,
                                                      const EngineKey& key,
                                                      const Sizes& sizes) const {
  // Narrowness, name and key of those that would do, the best first.
  std::vector<std::tuple<std::pair<std::int64_t, std::int64_t>, std::string, EngineKey>> fitting;
  for (const Known& known : records({folder_of(key)}, model, graph)) {
    const std::optional<SymbolRanges> ranges = ranges_from_text(known.key.shapes);
    if (!ranges || !ranges_contain(*ranges, sizes) || !is_alike(known.key, key)) continue;
    if (known.name != plan_name(model, graph, known.key)) continue;
    fitting.emplace_back(width_of(*ranges, sizes), known.name, known.key);
  }
  std::ranges::sort(fitting, [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
  });
  for (const auto& [narrowness, name, known] : fitting) {
    if (PlanSearch search = find(model, graph, known); search.plan) return std::move(search.plan);
  }
  return std::nullopt;
}

std::vector<std::uint8_t> EngineCache::kernels(const std::string& plan_name) const {
  const StoreReading<StoredFile> reading = store_.read(plan_name + kKernelsSuffix);
  if (!reading.found) return {};
  const std::string_view bytes = reading.found->data.bytes();
  return {bytes.begin(), bytes.end()};
}

void EngineCache::keep_kernels(const std::string& plan_name,
                               const std::vector<std::uint8_t>& data) const noexcept {
  try {
    if (!data.empty() && data != kernels(plan_name)) store_.write(plan_name + kKernelsSuffix, data);
  } catch (const std::exception&) {
    return;  // nobody is waiting for them
  }
}

std::vector<EngineCache::Known> EngineCache::records(const std::vector<std::string>& folders,
                                                     const std::string& model,
                                                     const std::string& graph) const {
  std::vector<std::string> names;
  for (const std::string& folder : folders) {
    const auto found =
        store_.names(folder + "/" + slug(model), graph_slug(graph) + "-", kPlanSuffix);
    names.insert(names.end(), found.begin(), found.end());
  }
  std::ranges::sort(names);
  std::vector<Known> known;
  for (const std::string& name : names) {
    const StoreReading<StoreRecord> reading = store_.record(name);
    if (!reading.found) continue;
    Details details = details_from(reading.found->details);
    if (details.key && details.graph == graph) known.push_back({name, std::move(*details.key)});
  }
  return known;
}

std::string EngineCache::why_another(const std::string& model, const std::string& graph,
                                     const EngineKey& key) const {
  std::vector<std::string> nearest;
  for (const Known& known : records(store_.folders(), model, graph)) {
    std::vector<std::string> clauses = differences(known.key, key);
    if (clauses.empty() || (!nearest.empty() && clauses.size() >= nearest.size())) continue;
    nearest = std::move(clauses);
  }
  if (nearest.empty()) return "";
  return "There is an engine of " + graph + ", but " + nearest.front() + ".";
}

std::string default_cache_dir() {
  const std::optional<std::string> home = home_folder();
  if (!home) {
    throw Error(ErrorCode::backend, {.what = "the user's cache folder is not known",
                                     .got = repr("a user without a home folder"),
                                     .expected = "the folder that engines are kept in",
                                     .fix = "give it as cache_dir"});
  }
  return *home + "/.cache/fam-diffusion/engines";
}

std::string slug(std::string_view text) {
  std::string name;
  bool is_separated = false;
  for (const char32_t original : code_points(text)) {
    const char32_t c = lowered(original);
    if (is_safe(c)) name += static_cast<char>(c);
    if (!is_safe(c) && !is_separated) name += '-';
    is_separated = !is_safe(c) || original == U'\u0130';
    if (original == U'\u0130') name += '-';
  }
  const std::size_t first = name.find_first_not_of("-.");
  if (first == std::string::npos) return "unnamed";
  const std::size_t last = name.find_last_not_of("-.");
  return name.substr(first, last - first + 1).substr(0, kSlugCharacters);
}

}  // namespace libfam
