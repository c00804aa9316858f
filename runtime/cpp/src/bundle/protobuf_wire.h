// The fields of protobuf messages in an untrusted file, read without knowing their types
// (https://protobuf.dev/programming-guides/encoding).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "bundle/windowed_bytes.h"

namespace libfam {

enum WireType : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct ProtobufField {
  std::uint64_t number = 0;
  unsigned wire = kVarint;
  std::uint64_t value = 0;  // the number itself, or where the bytes begin
  std::uint64_t end = 0;    // where the next field begins
};

// A file of messages with a budget of fields. Every error is a bundle_damaged that names the file.
class ProtobufFile {
 public:
  ProtobufFile(WindowedBytes& data, std::string_view name, std::uint64_t max_fields);

  std::uint64_t size() const { return data_.size(); }

  // The field at `position` of the message that ends at `end` > position.
  ProtobufField field(std::uint64_t position, std::uint64_t end);

  // The UTF-8 text that `field` holds, of at most `max_bytes`.
  std::string text(const ProtobufField& field, std::uint64_t max_bytes);

  void expect(const ProtobufField& field, WireType wire) const;

  Error malformed(const std::string& got, const std::string& expected) const;

 private:
  // The base-128 number of at most 64 bits at `position`, which moves behind it.
  std::uint64_t varint(std::uint64_t& position, std::uint64_t end);
  std::uint64_t skip(std::uint64_t position, std::uint64_t length, std::uint64_t end) const;

  WindowedBytes& data_;
  std::string name_;
  std::uint64_t max_fields_;
  std::uint64_t fields_left_;
};

}  // namespace libfam
