#include "sampling/prompt_encoder.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "bundle/contract.h"
#include "engines/feed_checks.h"

namespace libfam {
namespace {

// Each text once, in the order of the first ones.
std::vector<std::string> distinct(const std::vector<std::string>& texts) {
  std::set<std::string> seen;
  std::vector<std::string> kept;
  for (const std::string& text : texts) {
    if (seen.insert(text).second) kept.push_back(text);
  }
  return kept;
}

// [1, 77, D] and [1, 77, E] side by side: [1, 77, D + E].
HostTensor side_by_side(const HostTensor& left, const HostTensor& right) {
  Shape shape = left.shape;
  shape[2] += right.shape[2];
  HostTensor both = HostTensor::zeros(std::move(shape), left.dtype);
  const auto rows = static_cast<std::size_t>(left.shape[1]);
  const std::size_t left_bytes = left.bytes.size() / rows;
  const std::size_t right_bytes = right.bytes.size() / rows;
  std::byte* to = both.bytes.data();
  for (std::size_t row = 0; row < rows; ++row) {
    to = std::copy_n(left.bytes.data() + row * left_bytes, left_bytes, to);
    to = std::copy_n(right.bytes.data() + row * right_bytes, right_bytes, to);
  }
  return both;
}

// Checks what a text encoder gave for one text: [1, 77, D], and if it is there pooled, [1, P].
void check_embeddings(const TextEncoderInfo& info,
                      const std::map<std::string, HostTensor>& values) {
  const std::vector<std::pair<std::string, SymbolicShape>> shapes = {
      {contract::kPromptEmbeds, {std::int64_t{1}, info.max_length, std::string("D")}},
      {contract::kPooledPromptEmbeds, {std::int64_t{1}, std::string("P")}}};
  Sizes widths;
  for (const auto& [name, shape] : shapes) {
    const auto value = values.find(name);
    if (value != values.end()) check_output(info.graph, name, value->second, shape, widths);
  }
}

HostTensor ids_tensor(const std::vector<std::int64_t>& ids) {
  HostTensor tensor = HostTensor::zeros({1, static_cast<std::int64_t>(ids.size())}, Dtype::int64);
  std::copy(ids.begin(), ids.end(), tensor.integers());
  return tensor;
}

}  // namespace

PromptEncoder::PromptEncoder(const Bundle& bundle) {
  for (const TextEncoderInfo& info : bundle.manifest().text_encoders) {
    encoders_.push_back({&info, Tokenizer(bundle.read_bytes(info.tokenizer), info.tokenizer)});
  }
}

TextEmbeddings PromptEncoder::encode(EnginePool& pool, const std::vector<std::string>& texts,
                                     CallWatcher& watcher, CallWarnings& warnings) const {
  const std::vector<std::string> wanted = distinct(texts);
  watcher.start(Phase::text, static_cast<std::int64_t>(encoders_.size() * wanted.size()));
  TextEmbeddings embeddings;
  for (const Encoder& encoder : encoders_) {
    const EnginePool::Loan engine = pool.borrow(encoder.info->graph, {{"B", 1}});
    for (const std::string& text : wanted) {
      encode_text(*engine, pool.backend().device(), encoder, text, embeddings[text], warnings);
      watcher.advance();
    }
  }
  return embeddings;
}

void PromptEncoder::encode_text(Engine& engine, Device& device, const Encoder& encoder,
                                const std::string& text, TextEmbedding& embedding,
                                CallWarnings& warnings) const {
  const InputIds ids = encoder.tokenizer.input_ids(text, *encoder.info);
  if (!ids.cut.empty()) warnings.add(truncation_message(text, ids.cut));
  std::vector<std::string> wanted;
  for (const TensorSpec& output : engine.spec().outputs) wanted.push_back(output.name);
  const HostTensor input = ids_tensor(ids.ids);
  auto values =
      run_from_host(engine, device, {{contract::kInputIds, input.view()}}, wanted, {{"B", 1}});
  check_embeddings(*encoder.info, values);
  HostTensor& tokens = values.at(contract::kPromptEmbeds);
  const bool first = embedding.tokens.bytes.empty();
  embedding.tokens = first ? std::move(tokens) : side_by_side(embedding.tokens, tokens);
  const auto pooled = values.find(contract::kPooledPromptEmbeds);
  if (pooled != values.end()) embedding.pooled = std::move(pooled->second);
}

}  // namespace libfam
