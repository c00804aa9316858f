#include "sampling/stage_program.h"

#include <stdexcept>

namespace libfam {

const char* name_of(Stage stage) { return stage == Stage::native ? "native" : "target"; }

const char* name_of(NativeAttention attention) {
  switch (attention) {
    case NativeAttention::none:
      return "none";
    case NativeAttention::store:
      return "store";
    case NativeAttention::replay:
      return "replay";
  }
  throw std::logic_error("unknown native attention");
}

}  // namespace libfam
