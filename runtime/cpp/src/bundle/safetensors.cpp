#include "bundle/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "bundle/json_value.h"
#include "bundle/strict_json.h"

namespace libfam {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr const char* kMetadata = "__metadata__";

Error damaged(std::string_view name, const std::string& got, const std::string& expected) {
  return {ErrorCode::bundle_damaged,
          {.what = std::string(name) + " of the bundle is not a safetensors file",
           .got = repr(got),
           .expected = expected,
           .fix = "get the bundle again or export it again with fam-export"}};
}

// The header, and what follows it.
std::pair<std::string_view, std::string_view> split(std::string_view data, std::string_view name) {
  if (data.size() < kLengthBytes) {
    throw damaged(name, std::to_string(data.size()) + " bytes",
                  "at least " + std::to_string(kLengthBytes) + " bytes");
  }
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(data[i]);
  }
  const std::string_view rest = data.substr(kLengthBytes);
  if (length > rest.size()) {
    throw damaged(name, "a header of " + std::to_string(length) + " bytes",
                  "at most " + std::to_string(rest.size()) + " bytes");
  }
  const auto header_bytes = static_cast<std::size_t>(length);
  return {rest.substr(0, header_bytes), rest.substr(header_bytes)};
}

void check_metadata(const JsonValue& metadata, std::string_view name) {
  const JsonObject* members = metadata.object();
  const auto is_text = [](const auto& member) { return member.second.text() != nullptr; };
  if (members && std::ranges::all_of(*members, is_text)) return;
  throw damaged(name, kMetadata, "an object of texts");
}

// A list of at most `max_count` integers from 0.
std::optional<std::vector<std::int64_t>> counts(const JsonValue* value, std::size_t max_count) {
  const JsonList* items = value ? value->list() : nullptr;
  if (!items || items->size() > max_count) return std::nullopt;
  std::vector<std::int64_t> found;
  for (const JsonValue& item : *items) {
    const std::int64_t* integer = item.integer();
    if (!integer || *integer < 0) return std::nullopt;
    found.push_back(*integer);
  }
  return found;
}

// Whether float32 elements of `shape` take `bytes`; divides, since a product could overflow.
bool fills(const Shape& shape, std::int64_t bytes) {
  if (std::ranges::find(shape, 0) != shape.end()) return bytes == 0;
  std::int64_t left = bytes;
  for (const std::int64_t size : shape) {
    if (left % size != 0) return false;
    left /= size;
  }
  return left == 4;
}

// A table and where its bytes are: [begin, end) behind the header.
struct Entry {
  std::string name;
  std::string dtype;
  Shape shape;
  std::int64_t begin;
  std::int64_t end;
};

std::optional<Entry> entry_from(const std::string& name, const JsonValue& value) {
  const JsonObject* members = value.object();
  if (!members || members->size() != 3) return std::nullopt;
  const JsonValue* dtype = value.member("dtype");
  const auto shape = counts(value.member("shape"), kMaxTableDimensions);
  const auto offsets = counts(value.member("data_offsets"), 2);
  if (!dtype || !dtype->text() || !shape || !offsets || offsets->size() != 2) return std::nullopt;
  Entry entry{name, *dtype->text(), *shape, offsets->front(), offsets->back()};
  if (entry.begin > entry.end) return std::nullopt;
  if (entry.dtype == kSafetensorsFloat32 && !fills(entry.shape, entry.end - entry.begin)) {
    return std::nullopt;
  }
  return entry;
}

// Refuses tables that do not follow each other from the first of `size` bytes to the last.
void check_offsets(const std::vector<Entry>& entries, std::size_t size, std::string_view name) {
  std::vector<const Entry*> ordered;
  for (const Entry& entry : entries) ordered.push_back(&entry);
  std::ranges::sort(ordered, [](const Entry* a, const Entry* b) {
    return std::tie(a->begin, a->end, a->name) < std::tie(b->begin, b->end, b->name);
  });
  std::int64_t position = 0;
  for (const Entry* entry : ordered) {
    const std::string shown = repr(entry->name).text + " at byte ";
    if (entry->begin != position) {
      throw damaged(name, shown + std::to_string(entry->begin), shown + std::to_string(position));
    }
    position = entry->end;
  }
  if (!std::cmp_equal(position, size)) {
    throw damaged(name, std::to_string(size) + " bytes of tables",
                  std::to_string(position) + " bytes of tables");
  }
}

}  // namespace

std::vector<StoredTable> tables_of_safetensors(std::string_view data, std::string_view name) {
  const auto [header, body] = split(data, name);
  const JsonValue document = parse_json_object(header, "the header of " + std::string(name));
  if (const JsonValue* metadata = document.member(kMetadata)) check_metadata(*metadata, name);
  std::vector<Entry> entries;
  for (const auto& [key, value] : *document.object()) {
    if (key == kMetadata) continue;
    auto entry = entry_from(key, value);
    if (!entry) throw damaged(name, key, "a table with dtype, shape and data_offsets");
    entries.push_back(std::move(*entry));
  }
  check_offsets(entries, body.size(), name);
  std::vector<StoredTable> tables;
  for (Entry& entry : entries) {
    const auto begin = static_cast<std::size_t>(entry.begin);
    tables.push_back({std::move(entry.name), std::move(entry.dtype), std::move(entry.shape),
                      body.substr(begin, static_cast<std::size_t>(entry.end) - begin)});
  }
  return tables;
}

}  // namespace libfam
