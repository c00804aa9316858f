// CLIP's normalizer: normal form C, white space to single spaces, lower case.
#pragma once

#include "text/aligned_text.h"

namespace libfam {

// A run of white space becomes one space, which begins where the last of the run does. Lower case
// is Unicode's full mapping of each character alone: U+0130 becomes two, a final sigma is like any.
AlignedText normalized(AlignedText text);

}  // namespace libfam
