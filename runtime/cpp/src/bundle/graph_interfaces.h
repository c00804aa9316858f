// What the graphs of a bundle take and give, held against what the runtime feeds and reads.
#pragma once

#include "bundle/manifest.h"

namespace libfam {

// `manifest`: every graph that its parts name is listed.
// Raises: Error(bundle_damaged) naming the first input or output that is missing or has another
// type or shape, Error(bundle_version_unsupported) if there is one this version does not know.
void check_graph_interfaces(const Manifest& manifest);

}  // namespace libfam
