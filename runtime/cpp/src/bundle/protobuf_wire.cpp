#include "bundle/protobuf_wire.h"

namespace libfam {
namespace {

constexpr std::uint64_t kMaxFieldNumber = (std::uint64_t{1} << 29) - 1;

}  // namespace

ProtobufFile::ProtobufFile(WindowedBytes& data, std::string_view name, std::uint64_t max_fields)
    : data_(data), name_(name), max_fields_(max_fields), fields_left_(max_fields) {}

ProtobufField ProtobufFile::field(std::uint64_t position, std::uint64_t end) {
  if (fields_left_ == 0) {
    throw malformed("it has too many fields", "at most " + std::to_string(max_fields_));
  }
  --fields_left_;
  const std::uint64_t tag = varint(position, end);
  ProtobufField field{.number = tag >> 3, .wire = static_cast<unsigned>(tag & 7)};
  if (field.number == 0 || field.number > kMaxFieldNumber) {
    // Some parsers cut keys to 32 bits, and would see another field here.
    throw malformed("field number " + std::to_string(field.number),
                    "1 to " + std::to_string(kMaxFieldNumber));
  }
  switch (field.wire) {
    case kBytes: {
      const std::uint64_t length = varint(position, end);
      field.value = position;
      field.end = skip(position, length, end);
      break;
    }
    case kVarint:
      field.value = varint(position, end);
      field.end = position;
      break;
    case kFixed64:
    case kFixed32:
      field.end = skip(position, field.wire == kFixed64 ? 8 : 4, end);
      break;
    default:
      throw malformed("wire type " + std::to_string(field.wire) + " at byte " +
                          std::to_string(position) + " of " + std::to_string(size()),
                      "0, 1, 2 or 5");
  }
  return field;
}

std::string ProtobufFile::text(const ProtobufField& field, std::uint64_t max_bytes) {
  expect(field, kBytes);
  if (field.end - field.value > max_bytes) {
    throw malformed("a name is too long", "at most " + std::to_string(max_bytes) + " bytes");
  }
  std::string found = data_.text(field.value, field.end);
  if (!is_utf8(found)) throw malformed("a name is not UTF-8", "UTF-8");
  return found;
}

void ProtobufFile::expect(const ProtobufField& field, WireType wire) const {
  if (field.wire == wire) return;
  throw malformed(
      "field " + std::to_string(field.number) + " has wire type " + std::to_string(field.wire),
      "wire type " + std::to_string(wire));
}

Error ProtobufFile::malformed(const std::string& got, const std::string& expected) const {
  return {ErrorCode::bundle_damaged,
          {.what = name_ + " is not a well-formed ONNX file",
           .got = repr(got),
           .expected = expected,
           .fix = "do not use this bundle unless you made it yourself"}};
}

std::uint64_t ProtobufFile::varint(std::uint64_t& position, std::uint64_t end) {
  std::uint64_t value = 0;
  for (int shift = 0; position < end && shift < 70; shift += 7) {
    const std::uint64_t byte = data_.at(position++);
    const std::uint64_t bits = byte & 0x7F;
    const bool last = byte < 0x80;
    if (last && shift == 63 && bits > 1) break;  // beyond 64 bits
    value |= bits << shift;
    if (last) return value;
  }
  throw malformed("a malformed number at byte " + std::to_string(position), "a varint of 64 bits");
}

std::uint64_t ProtobufFile::skip(std::uint64_t position, std::uint64_t length,
                                 std::uint64_t end) const {
  if (length > end - position) {
    throw malformed(
        "a length of " + std::to_string(length) + " at byte " + std::to_string(position),
        "at most " + std::to_string(end - position));
  }
  return position + length;
}

}  // namespace libfam
