// Engine keys, the verified store, the cache, and what the TensorRT backends say of them.
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "engines/tensorrt/engine_cache.h"
#include "engines/tensorrt/engine_key.h"
#include "engines/tensorrt/tensorrt_backend.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

TensorrtName library_from(const Json& in) {
  return in.at("library") == "tensorrt" ? TensorrtName::tensorrt : TensorrtName::tensorrt_rtx;
}

SymbolRanges ranges_from(const Json& in) {
  SymbolRanges ranges;
  for (const auto& [symbol, range] : in.items()) ranges[symbol] = {range[0], range[1], range[2]};
  return ranges;
}

Json json_from(const SymbolRanges& ranges) {
  Json document = Json::object();
  for (const auto& [symbol, range] : ranges) {
    document[symbol] = {range.minimum, range.optimum, range.maximum};
  }
  return document;
}

template <typename Value>
std::optional<Value> optional_from(const Json& in, const char* name) {
  return in.at(name).is_null() ? std::nullopt : std::optional(in.at(name).get<Value>());
}

BuildSettings settings_from(const Json& in) {
  const Json& batch = in.at("batch");
  return {.batch = {batch[0], batch[1], batch[2]},
          .tf32 = optional_from<bool>(in, "tf32"),
          .workspace_bytes = optional_from<std::int64_t>(in, "workspace_bytes"),
          .optimization_level = optional_from<std::int64_t>(in, "optimization_level"),
          .strip_weights = in.at("strip_weights")};
}

EngineKey key_from(const Json& in) { return key_from_json(in.dump()).value(); }

Sizes sizes_from(const Json& in) {
  Sizes sizes;
  for (const auto& [symbol, size] : in.items()) sizes[symbol] = size;
  return sizes;
}

EngineCache cache_from(const Json& in) { return EngineCache(in.at("root").get<std::string>()); }

// A library that is as old as it is told, and knows no plan.
class NoPlans final : public PlanRuntime {
 public:
  NoPlans(TensorrtName library, TensorrtVersion version) : library_(library), version_(version) {}
  const TensorrtTraits& traits() const override { return traits_of(library_); }
  TensorrtVersion version() const override { return version_; }
  std::unique_ptr<LoadedPlan> load(const void*, std::size_t) override { return nullptr; }
  std::string last_message() const override { return "no plans here"; }
  void forget_message() override {}

 private:
  TensorrtName library_;
  TensorrtVersion version_;
};

const Registration kKey("tensorrt.key", [](const Json& in) -> Json {
  const std::optional<EngineKey> key = key_from_json(in.at("key").dump());
  if (!key) return nullptr;
  return {{"json", key->json()},
          {"digest", key->digest()},
          {"name", EngineCache::plan_name(in.at("model"), in.at("graph"), *key)}};
});

const Registration kKeysOfBundle("tensorrt.keys_of_bundle", [](const Json& in) -> Json {
  const Bundle bundle = Bundle::open(in.at("bundle"), Verify::size);
  const BuildSettings settings = settings_from(in.at("settings"));
  const Gpu gpu{in.at("architecture"), in.at("gpu")};
  Json keys = Json::array();
  for (const Json& wanted : in.at("wanted")) {
    const std::string graph = wanted[0];
    const SymbolRanges ranges = ranges_of(graph, sizes_from(wanted[1]), settings);
    keys.push_back(engine_key(bundle, graph, ranges, traits_of(library_from(in)), in.at("version"),
                              gpu, settings)
                       .json());
  }
  return keys;
});

const Registration kDifferences("tensorrt.differences", [](const Json& in) -> Json {
  return differences(key_from(in.at("old")), key_from(in.at("new")));
});

const Registration kRanges("tensorrt.ranges", [](const Json& in) -> Json {
  return describe_ranges(ranges_from(in.at("ranges")));
});

const Registration kRangesFromText("tensorrt.ranges_from_text", [](const Json& in) -> Json {
  const auto ranges = ranges_from_text(in.at("text").get<std::string>());
  return ranges ? json_from(*ranges) : Json(nullptr);
});

const Registration kSlug("tensorrt.slug", [](const Json& in) -> Json {
  Json slugs = Json::array();
  for (const Json& text : in.at("texts")) slugs.push_back(slug(text.get<std::string>()));
  return slugs;
});

const Registration kStoreRead("tensorrt.store_read", [](const Json& in) -> Json {
  const VerifiedStore store(in.at("root").get<std::string>());
  const StoreReading<StoredFile> reading = store.read(in.at("name"));
  if (!reading.found) return {{"damage", reading.damage}};
  write_bytes(in.at("to"), reading.found->data.data(), reading.found->data.nbytes());
  return {{"details", Json::parse(reading.found->details)}};
});

const Registration kStoreWrite("tensorrt.store_write", [](const Json& in) -> Json {
  const VerifiedStore store(in.at("root").get<std::string>());
  const std::string content = read_bytes(in.at("from"));
  store.write(in.at("name"), {content.begin(), content.end()}, in.at("details").dump());
  return store.path_of(in.at("name"));
});

const Registration kFind("tensorrt.find", [](const Json& in) -> Json {
  const EngineKey key = key_from(in.at("key"));
  const EngineCache cache = cache_from(in);
  const PlanSearch search = cache.find(in.at("model"), in.at("graph"), key);
  if (!search.plan) return {{"why", search.why}};
  return {{"name", search.plan->name}, {"ranges", json_from(search.plan->ranges)}};
});

const Registration kFindForSizes("tensorrt.find_for_sizes", [](const Json& in) -> Json {
  const auto plan = cache_from(in).find_for_sizes(
      in.at("model"), in.at("graph"), key_from(in.at("key")), sizes_from(in.at("sizes")));
  return plan ? Json(plan->name) : Json(nullptr);
});

const Registration kKernels("tensorrt.kernels", [](const Json& in) -> Json {
  const EngineCache cache = cache_from(in);
  if (in.contains("keep")) {
    const std::string content = in.at("keep");
    cache.keep_kernels(in.at("name"), {content.begin(), content.end()});
  }
  const std::vector<std::uint8_t> kept = cache.kernels(in.at("name"));
  return std::string(kept.begin(), kept.end());
});

// The backend with a library that knows no plan: what it says when `graph` is prepared for `sizes`.
const Registration kPrepare("tensorrt.prepare", [](const Json& in) -> Json {
  const Json& version = in.at("version");
  TensorrtBackend backend(
      host_device(), Gpu{in.at("architecture"), in.at("gpu")},
      std::make_unique<NoPlans>(library_from(in),
                                TensorrtVersion{version[0], version[1], version[2], version[3]}),
      in.at("root"));
  const Bundle bundle = Bundle::open(in.at("bundle"));
  const std::unique_ptr<Engine> engine = backend.load(bundle, in.at("graph"));
  engine->prepare(sizes_from(in.at("sizes")));
  Json description = Json::array();
  for (const auto& [name, value] : backend.describe()) description.push_back({name, value});
  return description;
});

const Registration kVersion("tensorrt.check_version", [](const Json& in) -> Json {
  const Json& version = in.at("version");
  check_version(traits_of(library_from(in)), {version[0], version[1], version[2], version[3]});
  return nullptr;
});

const Registration kDefaultCache("tensorrt.default_cache_dir",
                                 [](const Json&) -> Json { return default_cache_dir(); });

}  // namespace
}  // namespace libfam::probe
