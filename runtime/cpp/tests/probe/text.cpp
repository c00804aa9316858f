// Tokenizers, prompts and truncation.
#include <map>

#include "base/python_text.h"
#include "probe/probe.h"
#include "text/normalizer.h"
#include "text/tokenizer.h"

namespace libfam::probe {
namespace {

// Tokenizers that were loaded, by the path of their file.
const Tokenizer& tokenizer_at(const std::string& path) {
  static std::map<std::string, Tokenizer> loaded;
  const auto found = loaded.find(path);
  if (found != loaded.end()) return found->second;
  return loaded.emplace(path, Tokenizer(read_bytes(path), path)).first->second;
}

Json encode(const Json& in) {
  const Tokenizer& tokenizer = tokenizer_at(in.at("path"));
  Json answers = Json::array();
  for (const std::string text : in.at("texts")) {
    const Encoding encoding = tokenizer.encode(text);
    answers.push_back({encoding.ids, encoding.starts});
  }
  return answers;
}

Json input_ids(const Json& in) {
  TextEncoderInfo encoder;
  encoder.max_length = in.at("max_length");
  encoder.pad_token_id = in.at("pad");
  encoder.bos_token_id = in.at("bos");
  encoder.eos_token_id = in.at("eos");
  const Tokenizer& tokenizer = tokenizer_at(in.at("path"));
  Json answers = Json::array();
  for (const std::string text : in.at("texts")) {
    const InputIds result = tokenizer.input_ids(text, encoder);
    answers.push_back({result.ids, result.cut});
  }
  return answers;
}

Json normalize(const Json& in) {
  Json answers = Json::array();
  for (const std::string text : in.at("texts")) {
    answers.push_back(utf8_from(normalized(aligned(code_points(text))).characters));
  }
  return answers;
}

const Registration kEncode("text.encode", encode);
const Registration kInputIds("text.input_ids", input_ids);
const Registration kNormalize("text.normalize", normalize);
const Registration kLoad("text.load", [](const Json& in) {
  Tokenizer(in.at("data").get<std::string>(), in.at("name"));
  return Json(nullptr);
});
const Registration kCheck("text.check_prompt", [](const Json& in) {
  check_prompt(in.at("what"), read_bytes(in.at("path")), in.at("may_be_empty"));
  return Json(nullptr);
});
const Registration kTruncation("text.truncation_message", [](const Json& in) {
  return Json(
      truncation_message(in.at("text").get<std::string>(), in.at("cut").get<std::string>()));
});

}  // namespace
}  // namespace libfam::probe
