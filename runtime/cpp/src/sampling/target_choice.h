// From the size or scale that a call asks for to a target of the bundle.
#pragma once

#include <string>

#include "bundle/manifest.h"
#include "pipeline.h"

namespace libfam {

// The target of a call's scale or size; without either the smallest that the bundle at `root` has.
// Raises: Error(invalid_request) if the arguments are no size, or the checkpoint cannot make it;
// Error(target_not_built) if it can, but the bundle has no such target.
const Target& choose_target(const Manifest& manifest, const std::string& root, const Call& call);

}  // namespace libfam
