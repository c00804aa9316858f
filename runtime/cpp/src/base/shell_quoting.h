// Words for a command line that a message shows.
#pragma once

#include <string>
#include <string_view>

namespace libfam {

// `text` as one word of a shell, as Python's shlex.quote writes it.
std::string shell_quoted(std::string_view text);

}  // namespace libfam
