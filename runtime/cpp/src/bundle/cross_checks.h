// What the parts of a manifest must say about each other (docs/bundle_format.md).
#pragma once

#include "bundle/manifest.h"

namespace libfam {

// Holds the parts of `manifest` against each other.
// Raises: Error(bundle_damaged) naming the first contradiction, Error(bundle_version_unsupported)
// if a graph has an input or output that this version does not know.
void check_references(const Manifest& manifest);

}  // namespace libfam
