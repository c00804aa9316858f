#include "bundle/onnx_outline.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <utility>

#include "bundle/protobuf_wire.h"

namespace libfam {
namespace {

enum class Message { model, training, function, graph, node, attribute, sparse, tensor };

constexpr std::uint64_t kOpType = 4;  // of a node
constexpr std::uint64_t kTensorName = 8, kExternalData = 13, kDataLocation = 14;
constexpr std::uint64_t kEntryKey = 1, kEntryValue = 2;
constexpr std::uint64_t kExternal = 1;
constexpr std::uint64_t kMaxTextBytes = 4096;
constexpr std::size_t kMaxDigits = 19;  // such a number fits in 64 bits

// The message in field `number` of a `parent`, if the field leads towards tensors.
std::optional<Message> child_of(Message parent, std::uint64_t number) {
  switch (parent) {
    case Message::model:
      if (number == 7) return Message::graph;
      if (number == 20) return Message::training;
      if (number == 25) return Message::function;
      break;
    case Message::training:
      if (number == 1 || number == 2) return Message::graph;
      break;
    case Message::function:
      if (number == 7) return Message::node;
      if (number == 11) return Message::attribute;
      break;
    case Message::graph:
      if (number == 1) return Message::node;
      if (number == 5) return Message::tensor;
      if (number == 15) return Message::sparse;
      break;
    case Message::node:
      if (number == 5) return Message::attribute;
      break;
    case Message::attribute:
      if (number == 5 || number == 10) return Message::tensor;
      if (number == 6 || number == 11) return Message::graph;
      if (number == 22 || number == 23) return Message::sparse;
      break;
    case Message::sparse:
      if (number == 1 || number == 2) return Message::tensor;
      break;
    case Message::tensor:
      break;
  }
  return std::nullopt;
}

// A message that is still to be looked at: the bytes [begin, end).
struct Pending {
  Message message;
  std::uint64_t begin;
  std::uint64_t end;
  int depth;  // of subgraphs
};

class Walker {
 public:
  Walker(WindowedBytes& data, std::string_view name) : file_(data, name, kMaxOnnxFields) {}

  OnnxOutline walk() {
    pending_.push_back({Message::model, 0, file_.size(), 0});
    while (!pending_.empty()) {
      const Pending next = pending_.back();
      pending_.pop_back();
      if (next.message == Message::tensor) {
        enter_tensor(next);
      } else {
        enter(next);
      }
    }
    if (graphs_ != 1) {
      throw file_.malformed("it holds " + std::to_string(graphs_) + " graphs",
                            "one ONNX model with one graph");
    }
    return std::move(outline_);
  }

 private:
  // Notes the messages inside this one that can hold a tensor.
  void enter(const Pending& message) {
    if (message.depth > kMaxGraphDepth) {
      throw file_.malformed("subgraphs nest too deep", "at most " + std::to_string(kMaxGraphDepth));
    }
    ProtobufField field{.end = message.begin};
    while (field.end < message.end) {
      field = file_.field(field.end, message.end);
      const auto child = child_of(message.message, field.number);
      if (child) {
        file_.expect(field, kBytes);
        const bool is_graph = *child == Message::graph;
        if (is_graph && message.message == Message::model) ++graphs_;
        const int deeper = is_graph && message.message == Message::attribute ? 1 : 0;
        pending_.push_back({*child, field.value, field.end, message.depth + deeper});
      } else if (message.message == Message::node && field.number == kOpType) {
        outline_.op_types.insert(file_.text(field, kMaxTextBytes));
      }
    }
  }

  // Records the tensor if any of its fields speaks of external data.
  void enter_tensor(const Pending& message) {
    std::string name;
    bool is_external = false;
    std::map<std::string, std::string> entries;
    ProtobufField field{.end = message.begin};
    while (field.end < message.end) {
      field = file_.field(field.end, message.end);
      if (field.number == kTensorName) {
        name = file_.text(field, kMaxTextBytes);
      } else if (field.number == kDataLocation) {
        file_.expect(field, kVarint);
        is_external = is_external || field.value == kExternal;
      } else if (field.number == kExternalData) {
        file_.expect(field, kBytes);
        auto [key, value] = entry(field);
        const bool known =
            key == "location" || key == "offset" || key == "length" || key == "checksum";
        if (!known || entries.contains(key)) {
          throw file_.malformed("external data key " + repr(key).text, "each known key once");
        }
        entries.emplace(std::move(key), std::move(value));
      }
    }
    if (is_external || !entries.empty()) record(std::move(name), entries);
  }

  // Key and value of a StringStringEntryProto; each may stand there once.
  std::pair<std::string, std::string> entry(const ProtobufField& message) {
    std::optional<std::string> key;
    std::optional<std::string> value;
    ProtobufField field{.end = message.value};
    while (field.end < message.end) {
      field = file_.field(field.end, message.end);
      if (field.number != kEntryKey && field.number != kEntryValue) continue;
      auto& found = field.number == kEntryKey ? key : value;
      if (found) throw file_.malformed("an external data entry twice in one", "one");
      found = file_.text(field, kMaxTextBytes);
    }
    return {key.value_or(""), value.value_or("")};
  }

  void record(std::string name, const std::map<std::string, std::string>& entries) {
    const auto location = entries.find("location");
    if (location == entries.end()) {
      throw file_.malformed("the external tensor " + repr(name).text + " has no location",
                            "a location");
    }
    ExternalData external;
    external.tensor = std::move(name);
    external.location = location->second;
    const auto offset = entries.find("offset");
    if (offset != entries.end()) external.offset = decimal(offset->second);
    const auto length = entries.find("length");
    if (length != entries.end()) external.length = decimal(length->second);
    outline_.external.push_back(std::move(external));
  }

  std::uint64_t decimal(const std::string& text) const {
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    if (text.empty() || text.size() > kMaxDigits || !std::ranges::all_of(text, is_digit)) {
      throw file_.malformed("external data number " + repr(text).text, "decimal digits");
    }
    std::uint64_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  }

  ProtobufFile file_;
  OnnxOutline outline_;
  std::vector<Pending> pending_;
  std::uint64_t graphs_ = 0;
};

}  // namespace

OnnxOutline outline_of_onnx(WindowedBytes& data, std::string_view name) {
  return Walker(data, name).walk();
}

}  // namespace libfam
