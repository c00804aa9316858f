// Prompts to embeddings: CLIP tokens, the bundle's text encoders, and SDXL's conventions.
#pragma once

#include <string>
#include <vector>

#include "bundle/reader.h"
#include "engines/engine.h"
#include "sampling/call_warnings.h"
#include "sampling/call_watcher.h"
#include "sampling/conditions.h"
#include "text/tokenizer.h"

namespace libfam {

// All text encoders of a bundle, which must outlive this.
class PromptEncoder {
 public:
  // Raises: Error(bundle_damaged) if a tokenizer cannot be read.
  explicit PromptEncoder(const Bundle& bundle);

  // Embeddings of the distinct `texts`. Each is encoded in a batch of its own, so that its
  // embedding does not depend on its company. A step of the phase is one text through one encoder.
  // `warnings` are told about what does not fit.
  TextEmbeddings encode(EnginePool& pool, const std::vector<std::string>& texts,
                        CallWatcher& watcher, CallWarnings& warnings) const;

 private:
  struct Encoder {
    const TextEncoderInfo* info;
    Tokenizer tokenizer;
  };
  void encode_text(Engine& engine, Device& device, const Encoder& encoder, const std::string& text,
                   TextEmbedding& embedding, CallWarnings& warnings) const;

  std::vector<Encoder> encoders_;
};

}  // namespace libfam
