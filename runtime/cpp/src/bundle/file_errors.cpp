#include "bundle/file_errors.h"

#include <system_error>

namespace libfam {

std::string system_words(int error_number) { return std::generic_category().message(error_number); }

Error missing_file(std::string_view name) {
  return {ErrorCode::bundle_damaged,
          {.what = std::string(name) + " is missing from the bundle",
           .expected = "every file that manifest.json lists",
           .fix = "get the bundle again or export it again with fam-export"}};
}

Error unreadable_file(std::string_view name, int error_number) {
  return {ErrorCode::bundle_damaged,
          {.what = std::string(name) + " of the bundle cannot be read",
           .got = repr(system_words(error_number)),
           .expected = "a file that this user may read, on a working disk",
           .fix = "change the permissions of the bundle's files, or get the bundle again"}};
}

Error refused_file(std::string_view name, std::string_view what, const std::string& got) {
  return {ErrorCode::bundle_path_refused,
          {.what = std::string(name) + " of the bundle " + std::string(what),
           .got = repr(got),
           .expected = "a plain file with one name, in plain directories",
           .fix = "copy the bundle so that its files are real copies (cp -rL), if you trust its "
                  "source"}};
}

}  // namespace libfam
