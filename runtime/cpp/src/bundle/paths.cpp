#include "bundle/paths.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace libfam {
namespace {

// Why a component is refused, or an empty text.
std::string objection_to_component(std::string_view part) {
  if (part.empty() || part == "." || part == "..") {
    return "it has the component " + repr(part).text;
  }
  if (part.size() > kMaxComponentBytes) {
    return "a component is longer than " + std::to_string(kMaxComponentBytes) + " bytes";
  }
  if (part.back() == '.' || part.back() == ' ') return "a component ends with a dot or a space";
  return "";
}

// Why `name` is refused, or an empty text.
std::string objection_to(std::string_view name) {
  if (name.empty() || length_in_code_points(name) > kMaxNameCharacters) {
    return "it is empty or longer than " + std::to_string(kMaxNameCharacters) + " characters";
  }
  if (name.front() == '/') return "it is absolute";
  if (!is_printable(name) || name.find_first_of("\\:") != std::string_view::npos) {
    return "it holds a backslash, a colon or a control character";
  }
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    std::string reason = objection_to_component(name.substr(begin, end - begin));
    if (!reason.empty()) return reason;
    begin = end + 1;
  }
  return "";
}

}  // namespace

std::string_view check_name(std::string_view name) {
  const std::string reason = objection_to(name);
  if (!reason.empty()) {
    throw Error(ErrorCode::bundle_path_refused,
                {.what = "the bundle names a file in a way that is not allowed: " + reason,
                 .got = repr(name),
                 .expected = "a relative path with '/' that stays inside the bundle",
                 .fix = "do not use this bundle"});
  }
  return name;
}

}  // namespace libfam
