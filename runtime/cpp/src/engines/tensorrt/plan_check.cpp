#include "engines/tensorrt/plan_check.h"

#include <algorithm>
#include <cstddef>

#include "base/error.h"
#include "engines/feed_checks.h"

namespace libfam {
namespace {

// Name, dtype as the manifest writes it, and shape with -1 for a size that is not fixed.
struct Described {
  std::string name;
  std::string dtype;
  Shape shape;

  bool operator==(const Described&) const = default;
};

Repr repr(const Described& tensor) {
  std::vector<Repr> sizes;
  for (const std::int64_t size : tensor.shape) sizes.push_back(libfam::repr(size));
  return repr_tuple({libfam::repr(tensor.name), libfam::repr(tensor.dtype), repr_tuple(sizes)});
}

std::int64_t size_of(const Dimension& dimension, const SymbolRanges& ranges) {
  if (const auto* number = std::get_if<std::int64_t>(&dimension)) return *number;
  const auto [factor, symbol] = split_symbol(std::get<std::string>(dimension));
  const auto range = ranges.find(symbol);
  if (range == ranges.end() || range->second.minimum != range->second.maximum) return -1;
  return factor * range->second.minimum;
}

std::vector<Described> expected_tensors(const std::vector<TensorSpec>& specs,
                                        const SymbolRanges& ranges) {
  std::vector<Described> tensors;
  for (const TensorSpec& spec : specs) {
    Shape shape;
    for (const Dimension& dimension : spec.shape) shape.push_back(size_of(dimension, ranges));
    tensors.push_back({spec.name, name_of(spec.dtype), shape});
  }
  return tensors;
}

// The inputs, or the outputs: in the manifest's order, then those it has not.
std::vector<Described> found_tensors(const std::vector<TensorSpec>& specs,
                                     const std::vector<PlanTensor>& tensors, bool inputs) {
  std::vector<Described> found;
  const auto add = [&found](const PlanTensor& tensor) {
    found.push_back({tensor.name, tensor.dtype, tensor.shape});
  };
  for (const TensorSpec& spec : specs) {
    for (const PlanTensor& tensor : tensors) {
      if (tensor.is_input == inputs && tensor.name == spec.name) add(tensor);
    }
  }
  for (const PlanTensor& tensor : tensors) {
    const bool is_listed = std::ranges::any_of(
        specs, [&tensor](const TensorSpec& spec) { return spec.name == tensor.name; });
    if (tensor.is_input == inputs && !is_listed) add(tensor);
  }
  return found;
}

void check_tensors(const std::string& what, const std::vector<Described>& expected,
                   const std::vector<Described>& found, const std::string& fix) {
  if (found == expected) return;
  Repr got = libfam::repr(std::to_string(found.size()) + " of them");
  std::string right = std::to_string(expected.size());
  for (std::size_t index = 0; index < std::min(found.size(), expected.size()); ++index) {
    if (found[index] == expected[index]) continue;
    got = repr(found[index]);
    right = repr(expected[index]).text;
    break;
  }
  throw Error(
      ErrorCode::backend,
      {.what = what + " is not what the manifest says", .got = got, .expected = right, .fix = fix});
}

}  // namespace

void check_plan(const std::string& graph, const GraphSpec& spec, const SymbolRanges& ranges,
                const std::vector<PlanTensor>& tensors, const std::string& fix) {
  const std::string what = "engine of " + graph;
  check_tensors(what + ": an input", expected_tensors(spec.inputs, ranges),
                found_tensors(spec.inputs, tensors, true), fix);
  check_tensors(what + ": an output", expected_tensors(spec.outputs, ranges),
                found_tensors(spec.outputs, tensors, false), fix);
}

std::vector<std::string> dynamic_inputs(const std::vector<PlanTensor>& tensors) {
  std::vector<std::string> names;
  for (const PlanTensor& tensor : tensors) {
    if (tensor.is_input && std::ranges::find(tensor.shape, -1) != tensor.shape.end()) {
      names.push_back(tensor.name);
    }
  }
  return names;
}

}  // namespace libfam
