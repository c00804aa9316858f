// The outline of graphs: windows of every size, and files made to cost time.
#include <doctest/doctest.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "base/error.h"
#include "bundle/onnx_outline.h"

namespace libfam {
namespace {

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value > 0x7F; value >>= 7) bytes += static_cast<char>((value & 0x7F) | 0x80);
  return bytes + static_cast<char>(value);
}

// Field `number` that holds `bytes`.
std::string field(std::uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}

std::string entry(const std::string& key, const std::string& value) {
  return field(13, field(1, key) + field(2, value));
}

std::string tensor(const std::string& name) {
  const std::string external = entry("location", "weights.bin") + entry("offset", "64");
  return field(5, field(9, std::string(500, 'x')) + external + field(8, name));
}

std::string model() {
  std::string graph;
  for (int i = 0; i < 20; ++i) graph += tensor("t" + std::to_string(i)) + field(1, field(4, "Op"));
  return field(7, graph);
}

OnnxOutline outline(const std::string& data) {
  WindowedBytes bytes(data);
  return outline_of_onnx(bytes, "x.onnx");
}

TEST_CASE("a window of any size shows the same") {
  const std::string data = model();
  const OnnxOutline expected = outline(data);
  REQUIRE(expected.external.size() == 20);
  CHECK(expected.external.back().tensor == "t0");
  for (const std::size_t size : {1U, 2U, 7U, 64U, 4096U, 1U << 20}) {
    std::size_t reads = 0;
    const auto read = [&](std::uint64_t offset, char* out, std::size_t count) {
      REQUIRE(offset % size == 0);
      REQUIRE(offset + count <= data.size());
      data.copy(out, count, static_cast<std::size_t>(offset));
      ++reads;
    };
    WindowedBytes bytes(data.size(), read, size);
    const OnnxOutline found = outline_of_onnx(bytes, "x.onnx");
    REQUIRE(found.external.size() == 20);
    for (std::size_t i = 0; i < 20; ++i) {
      CHECK(found.external[i].tensor == expected.external[i].tensor);
      CHECK(found.external[i].offset == 64);
    }
    if (size > data.size()) CHECK(reads == 1);
  }
}

TEST_CASE("a disk that fails in the middle is not taken for a malformed file") {
  const std::string data = model();
  int reads = 0;
  const auto read = [&](std::uint64_t offset, char* out, std::size_t count) {
    if (++reads == 3) throw std::system_error(EIO, std::generic_category());
    data.copy(out, count, static_cast<std::size_t>(offset));
  };
  WindowedBytes bytes(data.size(), read, 64);
  CHECK_THROWS_AS(outline_of_onnx(bytes, "x.onnx"), std::system_error);
}

TEST_CASE("fields are counted over all messages") {
  // A graph of n empty nodes, which the walker enters, and the field that holds it.
  const auto with_nodes = [](std::uint64_t count) {
    std::string nodes;
    for (std::uint64_t i = 0; i < count; ++i) nodes.append("\x0A\x00", 2);
    return field(7, nodes);
  };
  CHECK(outline(with_nodes(kMaxOnnxFields - 1)).external.empty());
  CHECK_THROWS_WITH(
      outline(with_nodes(kMaxOnnxFields)),
      "x.onnx is not a well-formed ONNX file | got 'it has too many fields' | "
      "expected at most 8000000 | do not use this bundle unless you made it yourself");
}

TEST_CASE("numbers at the border of 64 bits") {
  const std::string graph = field(7, "");
  const auto number = [&](const std::string& bytes) { return outline(graph + "\x08" + bytes); };
  CHECK_NOTHROW(number(std::string(9, '\xFF') + "\x01"));
  CHECK_NOTHROW(number(std::string(9, '\x80') + std::string(1, '\0')));
  CHECK_THROWS_AS(number(std::string(9, '\xFF') + "\x02"), Error);
  CHECK_THROWS_AS(number(std::string(10, '\xFF') + "\x01"), Error);
  CHECK_THROWS_AS(number(std::string(9, '\xFF')), Error);
}

}  // namespace
}  // namespace libfam
