// The weights of a UNet's graphs in one memory map that its sessions share.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "engines/onnxruntime/library.h"
#include "engines/onnxruntime/mapped_file.h"

namespace libfam {

// Every tensor of unet/weights.bin as an ONNX Runtime value over one memory map. It must outlive
// the sessions that use it.
class SharedWeights {
 public:
  // `index`: the content of weights.json: name to dtype, shape, offset and bytes. `index_name`: of
  // its file, for messages.
  // Raises: Error(bundle_damaged) if the index cannot be read, or does not fit the file.
  SharedWeights(const std::filesystem::path& weights, std::string_view index,
                const std::string& index_name);

  // Makes a session use these tensors instead of reading its own; unused ones are ignored.
  void add_to(Ort::SessionOptions& options) const;

  std::size_t size() const { return values_.size(); }

 private:
  MappedFile memory_;
  std::map<std::string, Ort::Value> values_;
};

}  // namespace libfam
