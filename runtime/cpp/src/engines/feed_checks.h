// Checks of what is bound to a graph, and of what it gives: names, dtypes, and shapes with symbols.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "bundle/manifest.h"
#include "engines/engine.h"

namespace libfam {

// Checks every input of the graph called `graph`, and of its outputs those that are bound.
// Returns the sizes that the symbols have in `values`.
// Raises: Error(backend) if an input is missing, a name is unknown, or a dtype or a shape does not
// fit.
Sizes check_bindings(const std::string& graph, const GraphSpec& spec, const Bindings& values);

// The same for inputs alone: any other name is unknown.
Sizes check_feeds(const std::string& graph, const std::vector<TensorSpec>& inputs,
                  const Bindings& feeds);

// Raises: Error(backend) if one of `wanted` is no output of the graph.
void check_output_names(const std::string& graph, const std::vector<std::string>& wanted,
                        const std::vector<TensorSpec>& available);

// Checks that an output is float32 and of the shape that the bundle's sizes ask for: the manifest's
// reader compares such shapes for the steps alone. Symbols that are still free in `bound` are bound
// to the sizes seen.
// Raises: Error(bundle_damaged) if it is something else.
void check_output(const std::string& graph, const std::string& name, const HostTensor& value,
                  const SymbolicShape& shape, Sizes& bound);

// Whether `shape` fits; symbols that are still free are bound to the sizes seen. A symbol such as
// "2B" binds B to half of the size and does not fit an odd one.
// Raises: Error(backend) if a dimension of the manifest cannot be read.
bool bind_shape(const SymbolicShape& expected, const Shape& shape, Sizes& bound);

// "2B" as (2, "B"). A factor that does not fit the type is its largest value, which no size has.
// Raises: Error(backend) if it is no optional factor followed by letters.
std::pair<std::int64_t, std::string> split_symbol(const std::string& dimension);

}  // namespace libfam
