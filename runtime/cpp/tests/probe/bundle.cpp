// Bundles: opening them, what they hand out, and the readers of their files.
#include <deque>

#include "base/sha256.h"
#include "bundle/integrity.h"
#include "bundle/kernels.h"
#include "bundle/onnx_outline.h"
#include "bundle/path_text.h"
#include "bundle/reader.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

// Bundles that stay open until the program ends.
std::deque<Bundle>& opened() {
  static std::deque<Bundle> bundles;
  return bundles;
}

const Bundle& bundle_of(const Json& in) { return opened().at(in.at("bundle").get<std::size_t>()); }

std::string text_of(const Json& in, const char* key) { return in.at(key).get<std::string>(); }

std::string bytes_of_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

Json json_of(const std::vector<ExternalData>& tensors) {
  Json found = Json::array();
  for (const ExternalData& tensor : tensors) {
    Json length = tensor.length ? Json(*tensor.length) : Json(nullptr);
    found.push_back({tensor.tensor, tensor.location, tensor.offset, std::move(length)});
  }
  return found;
}

// The hash of all three tables, and their sizes.
Json json_of(const KernelTables& tables) {
  Sha256 hash;
  Json sizes = Json::array();
  for (const auto* table : {&tables.rows, &tables.columns, &tables.weight}) {
    hash.update(table->data(), table->size() * sizeof(float));
    sizes.push_back(table->size());
  }
  return {{"sizes", sizes}, {"sha256", hash.hex_digest()}};
}

// Opens a bundle and keeps it; "stop_after" bytes its check is stopped.
Json open(const Json& in) {
  Json reports = Json::array();
  const auto stop_after = in.value("stop_after", std::uint64_t{1} << 60);
  std::uint64_t total = 0;
  const HashProgress progress = [&](std::uint64_t bytes) {
    reports.push_back(bytes);
    return (total += bytes) < stop_after;
  };
  const Verify verify = text_of(in, "verify") == "size" ? Verify::size : Verify::full;
  opened().push_back(Bundle::open(text_of(in, "path"), verify, progress));
  return {{"bundle", opened().size() - 1},
          {"root", opened().back().root()},
          {"hash", opened().back().hash()},
          {"reports", reports}};
}

const Registration kOpen("bundle.open", open);

const Registration kPath("bundle.path",
                         [](const Json& in) { return bundle_of(in).path(text_of(in, "name")); });

const Registration kRead("bundle.read_bytes", [](const Json& in) {
  return sha256_hex(bundle_of(in).read_bytes(text_of(in, "name")));
});

const Registration kKernels("bundle.kernel_tables", [](const Json& in) {
  const Bundle& bundle = bundle_of(in);
  return json_of(bundle.kernel_tables(bundle.manifest().targets.at(in.at("target"))));
});

const Registration kGraph("bundle.graph", [](const Json& in) -> Json {
  const std::string graph = text_of(in, "graph");
  return {{"files", bundle_of(in).files_of_graph(graph)},
          {"external", json_of(bundle_of(in).external_data(graph))}};
});

const Registration kVerify("bundle.verify_file", [](const Json& in) {
  const FileRecord record{in.at("bytes"), text_of(in, "sha256")};
  return verify_file(text_of(in, "root"), text_of(in, "name"), record, true).size;
});

const Registration kOutline("bundle.outline", [](const Json& in) -> Json {
  const std::string data = bytes_of_hex(text_of(in, "hex"));
  WindowedBytes bytes(data);
  const OnnxOutline outline = outline_of_onnx(bytes, text_of(in, "name"));
  return {{"external", json_of(outline.external)}, {"op_types", outline.op_types}};
});

const Registration kTables("bundle.tables", [](const Json& in) {
  const Size latent{in.at("height"), in.at("width")};
  return json_of(kernel_tables_from_bytes(bytes_of_hex(text_of(in, "hex")), text_of(in, "name"),
                                          in.at("timesteps"), latent));
});

const Registration kPathText("bundle.path_text", [](const Json& in) -> Json {
  const std::string path = path_text(text_of(in, "path"));
  return {path, path_name(path), path_parent(path), path_stem(path), path_suffix(path)};
});

}  // namespace
}  // namespace libfam::probe
