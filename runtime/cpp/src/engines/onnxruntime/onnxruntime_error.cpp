#include "engines/onnxruntime/onnxruntime_error.h"

#include <algorithm>

#include "base/python_text.h"

namespace libfam {
namespace {

constexpr std::size_t kMostCharacters = 500;

const char* name_of(OrtErrorCode code) {
  switch (code) {
    case ORT_OK:
      return "SUCCESS";
    case ORT_FAIL:
      return "FAIL";
    case ORT_INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case ORT_NO_SUCHFILE:
      return "NO_SUCHFILE";
    case ORT_NO_MODEL:
      return "NO_MODEL";
    case ORT_ENGINE_ERROR:
      return "ENGINE_ERROR";
    case ORT_RUNTIME_EXCEPTION:
      return "RUNTIME_EXCEPTION";
    case ORT_INVALID_PROTOBUF:
      return "INVALID_PROTOBUF";
    case ORT_MODEL_LOADED:
      return "MODEL_LOADED";
    case ORT_NOT_IMPLEMENTED:
      return "NOT_IMPLEMENTED";
    case ORT_INVALID_GRAPH:
      return "INVALID_GRAPH";
    case ORT_EP_FAIL:
      return "EP_FAIL";
    default:
      return "GENERAL ERROR";
  }
}

// " ".join(text.split())[:500].
std::string shortened(const std::string& text) {
  std::u32string words;
  bool blank = false;
  for (const char32_t c : code_points(text)) {
    if (is_space(c)) {
      blank = !words.empty();
      continue;
    }
    if (blank) words.push_back(U' ');
    blank = false;
    words.push_back(c);
  }
  return utf8_from(std::u32string_view(words).substr(0, kMostCharacters));
}

bool speaks_of_memory(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text.find("alloc") != std::string::npos || text.find("out of memory") != std::string::npos;
}

}  // namespace

Error error_from_onnxruntime(const std::string& what, const Ort::Exception& error) {
  const OrtErrorCode code = error.GetOrtErrorCode();
  // The library's own Python package says it in this form; its C++ API leaves the code out.
  const std::string text = "[ONNXRuntimeError] : " + std::to_string(static_cast<int>(code)) +
                           " : " + name_of(code) + " : " + error.what();
  // An output of another shape than its memory is no lack of memory, though it speaks of
  // allocation.
  const bool memory = code != ORT_INVALID_ARGUMENT && speaks_of_memory(text);
  return {memory ? ErrorCode::out_of_memory : ErrorCode::backend,
          {.what = what,
           .got = repr(shortened(text)),
           .expected = "a successful call",
           .fix = memory ? "use low_memory=True, a smaller size or a smaller tile"
                         : "run fam-inspect on the bundle; if it is intact, try another "
                           "onnxruntime version"}};
}

}  // namespace libfam
