// Where an ONNX file keeps tensors outside of itself, read without the onnx library.
//
// A walker over the protobuf wire format: it enters the messages that can hold a tensor, skips
// everything else by its length, and refuses what a careful writer never produces. Field numbers
// are those of onnx.proto3; https://protobuf.dev/programming-guides/encoding describes the wire.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/reader.h"
#include "bundle/windowed_bytes.h"

namespace libfam {

// Fields looked at in one file: a UNet has some 200,000; more would only cost time.
inline constexpr std::uint64_t kMaxOnnxFields = 8'000'000;

// Nesting of subgraphs; exported UNets nest 1 deep.
inline constexpr int kMaxGraphDepth = 32;

// What a reader of bundles must know of a graph before a parser sees it.
struct OnnxOutline {
  std::vector<ExternalData> external;
  std::set<std::string, std::less<>> op_types;
};

// External tensors and operator types of the ONNX model in `data`, subgraphs included. `name` is
// the file's name in messages.
// Raises: Error(bundle_damaged) if `data` is not well-formed.
OnnxOutline outline_of_onnx(WindowedBytes& data, std::string_view name);

}  // namespace libfam
