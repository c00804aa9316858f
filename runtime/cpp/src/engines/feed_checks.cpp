#include "engines/feed_checks.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <variant>

#include "base/error.h"
#include "base/python_text.h"

namespace libfam {
namespace {

bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool names(const std::vector<TensorSpec>& specs, const std::string& name) {
  return std::any_of(specs.begin(), specs.end(),
                     [&](const TensorSpec& spec) { return spec.name == name; });
}

std::string listed(const std::vector<TensorSpec>& specs) {
  std::vector<std::string> all;
  for (const TensorSpec& spec : specs) all.push_back(spec.name);
  return joined(all, ", ");
}

bool bind_dimension(const Dimension& dimension, std::int64_t size, Sizes& bound) {
  if (const auto* number = std::get_if<std::int64_t>(&dimension)) return *number == size;
  const auto [factor, symbol] = split_symbol(std::get<std::string>(dimension));
  if (size <= 0 || size % factor != 0) return false;
  return bound.try_emplace(symbol, size / factor).first->second == size / factor;
}

// The shape as the manifest writes it, with the values of its symbols.
std::string described(const SymbolicShape& expected, const Sizes& bound) {
  std::vector<std::string> dimensions;
  for (const Dimension& dimension : expected) {
    const auto* number = std::get_if<std::int64_t>(&dimension);
    dimensions.push_back(number != nullptr ? std::to_string(*number)
                                           : std::get<std::string>(dimension));
  }
  const std::string text = "[" + joined(dimensions, ", ") + "]";
  std::vector<std::string> known;
  for (const auto& [symbol, size] : bound) known.push_back(symbol + " = " + std::to_string(size));
  return known.empty() ? text : text + " with " + joined(known, ", ");
}

Repr repr_shape(const Shape& shape) {
  std::vector<Repr> sizes;
  for (const std::int64_t size : shape) sizes.push_back(repr(size));
  return repr_tuple(sizes);
}

// `kind`: "input" or "output".
void check_value(const std::string& graph, const std::string& kind, const TensorSpec& spec,
                 const TensorView& value, Sizes& bound) {
  if (value.dtype != spec.dtype) {
    throw Error(ErrorCode::backend,
                {.what = graph + ": " + kind + " " + spec.name + " has the wrong dtype",
                 .got = repr(name_of(value.dtype)),
                 .expected = name_of(spec.dtype),
                 .fix = "convert the value"});
  }
  if (!bind_shape(spec.shape, value.shape, bound)) {
    throw Error(ErrorCode::backend,
                {.what = graph + ": " + kind + " " + spec.name + " has the wrong shape",
                 .got = repr_shape(value.shape),
                 .expected = described(spec.shape, bound),
                 .fix = "feed values of the size that the graph was exported for"});
  }
  if (value.data == nullptr && value.nbytes() != 0) {
    throw std::logic_error(spec.name + " is bound to no memory");
  }
}

Sizes check_inputs(const std::string& graph, const std::vector<TensorSpec>& inputs,
                   const std::vector<TensorSpec>& outputs, const Bindings& values) {
  std::vector<std::string> missing;
  std::vector<std::string> unknown;
  for (const TensorSpec& spec : inputs) {
    if (!values.contains(spec.name)) missing.push_back(spec.name);
  }
  for (const auto& [name, value] : values) {
    if (!names(inputs, name) && !names(outputs, name)) unknown.push_back(name);
  }
  if (!missing.empty() || !unknown.empty()) {
    throw Error(ErrorCode::backend, {.what = graph + ": wrong inputs",
                                     .got = repr("missing " + repr_texts(missing).text +
                                                 ", unknown " + repr_texts(unknown).text),
                                     .expected = listed(inputs),
                                     .fix = "feed every input of the graph by its name"});
  }
  Sizes bound;
  for (const TensorSpec& spec : inputs) {
    check_value(graph, "input", spec, values.find(spec.name)->second, bound);
  }
  return bound;
}

}  // namespace

Sizes check_bindings(const std::string& graph, const GraphSpec& spec, const Bindings& values) {
  Sizes bound = check_inputs(graph, spec.inputs, spec.outputs, values);
  for (const TensorSpec& output : spec.outputs) {
    const auto value = values.find(output.name);
    if (value != values.end()) check_value(graph, "output", output, value->second, bound);
  }
  return bound;
}

Sizes check_feeds(const std::string& graph, const std::vector<TensorSpec>& inputs,
                  const Bindings& feeds) {
  return check_inputs(graph, inputs, {}, feeds);
}

void check_output_names(const std::string& graph, const std::vector<std::string>& wanted,
                        const std::vector<TensorSpec>& available) {
  std::vector<std::string> unknown;
  for (const std::string& name : wanted) {
    if (!names(available, name)) unknown.push_back(name);
  }
  if (!unknown.empty()) {
    throw Error(ErrorCode::backend, {.what = graph + ": unknown outputs",
                                     .got = repr_texts(unknown),
                                     .expected = listed(available),
                                     .fix = "ask for outputs that the manifest lists"});
  }
}

void check_output(const std::string& graph, const std::string& name, const HostTensor& value,
                  const SymbolicShape& shape, Sizes& bound) {
  if (value.dtype == Dtype::float32 && bind_shape(shape, value.shape, bound)) return;
  throw Error(ErrorCode::bundle_damaged,
              {.what = graph + ": output " + name + " does not fit the bundle's sizes",
               .got = repr(std::string(name_of(value.dtype)) + " " + repr_shape(value.shape).text),
               .expected = "float32 " + described(shape, {}),
               .fix = "export the bundle again"});
}

bool bind_shape(const SymbolicShape& expected, const Shape& shape, Sizes& bound) {
  if (expected.size() != shape.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (!bind_dimension(expected[i], shape[i], bound)) return false;
  }
  return true;
}

std::pair<std::int64_t, std::string> split_symbol(const std::string& dimension) {
  const auto letters = std::find_if_not(dimension.begin(), dimension.end(), is_digit);
  const bool is_symbol = letters != dimension.end() && dimension.front() != '0' &&
                         std::all_of(letters, dimension.end(), is_letter);
  if (!is_symbol) {
    throw Error(ErrorCode::backend, {.what = "a dimension of the manifest cannot be read",
                                     .got = repr(dimension),
                                     .expected = "an integer or a symbol such as B, 2B, h or 8h",
                                     .fix = "export the bundle again"});
  }
  std::int64_t factor = 1;
  const char* begin = dimension.data();
  const auto parsed = std::from_chars(begin, begin + (letters - dimension.begin()), factor);
  if (parsed.ec == std::errc::result_out_of_range) {
    factor = std::numeric_limits<std::int64_t>::max();
  }
  return {factor, std::string(letters, dimension.end())};
}

}  // namespace libfam
