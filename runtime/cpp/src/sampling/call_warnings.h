// What a user should know of a call, a sentence each, in Python's words.
#pragma once

#include <string>
#include <vector>

#include "sampling/request.h"

namespace libfam {

// The sentences of a call, each once, in the order in which they came up.
class CallWarnings {
 public:
  void add(const std::string& sentence);
  const std::vector<std::string>& sentences() const { return sentences_; }

 private:
  std::vector<std::string> sentences_;
};

// Of a picture without guidance: what it costs all the same, and a negative prompt without effect.
void warn_without_guidance(const Request& request, const ModelInfo& model, CallWarnings& warnings);

}  // namespace libfam
