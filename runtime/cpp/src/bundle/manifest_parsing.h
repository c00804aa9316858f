// From a cursor over manifest.json to the parts: types and ranges; unknown keys are ignored.
#pragma once

#include "bundle/json_cursor.h"
#include "bundle/manifest.h"

namespace libfam {

// The parts, each of the right type and in range, but not yet held against each other.
// Raises: Error(bundle_damaged, bundle_path_refused) naming the first place that breaks the format.
Manifest manifest_from(const JsonCursor& at);

}  // namespace libfam
