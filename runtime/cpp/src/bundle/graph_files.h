// What the ONNX files of a bundle may contain: external data beside them, no engine inside.
#pragma once

#include <string>
#include <string_view>

#include "bundle/manifest.h"
#include "bundle/onnx_outline.h"

namespace libfam {

// Reads the outline of the graph `name` below `root`, whose files `manifest` lists, and refuses
// what leads out of the bundle. Raises: Error(bundle_path_refused) for external data elsewhere than
// beside the graph, data beyond the end of the file it lies in, or native code;
// Error(bundle_damaged) for a malformed file.
OnnxOutline check_graph_file(const std::string& root, std::string_view name,
                             const Manifest& manifest);

// Where `location`, a file beside the graph `graph`, lies in the bundle.
std::string beside(std::string_view graph, std::string_view location);

}  // namespace libfam
