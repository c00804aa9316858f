// Unicode's normal form C of Unicode 9.0 (https://www.unicode.org/reports/tr15/), with alignment.
#pragma once

#include "text/aligned_text.h"

namespace libfam {

// A composed character begins where the first of those it was made of begins. Characters that came
// after Unicode 9.0 neither compose nor change places.
AlignedText composed(AlignedText text);

}  // namespace libfam
