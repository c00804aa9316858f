#include "engines/tensorrt/build_settings.h"

namespace libfam {

SymbolRanges ranges_of(const std::string& graph, const Sizes& sizes,
                       const BuildSettings& settings) {
  SymbolRanges ranges = exactly(sizes);
  const auto batch = ranges.find(kBatchSymbol);
  if (graph.starts_with("unet/") && batch != ranges.end() &&
      settings.batch.minimum <= batch->second.minimum &&
      batch->second.minimum <= settings.batch.maximum) {
    batch->second = settings.batch;
  }
  return ranges;
}

}  // namespace libfam
