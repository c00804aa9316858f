// A plan's inputs and outputs, compared with the manifest's.
#pragma once

#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "engines/tensorrt/plan_runtime.h"
#include "engines/tensorrt/symbol_ranges.h"

namespace libfam {

// Compares names, dtypes and shapes: -1 is a size that the ranges leave open. `fix` is what to do.
// Raises: Error(backend) if they differ.
void check_plan(const std::string& graph, const GraphSpec& spec, const SymbolRanges& ranges,
                const std::vector<PlanTensor>& tensors, const std::string& fix);

// The inputs of a plan that have a size which is not fixed.
std::vector<std::string> dynamic_inputs(const std::vector<PlanTensor>& tensors);

}  // namespace libfam
