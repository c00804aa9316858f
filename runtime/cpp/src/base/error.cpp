#include "base/error.h"

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

namespace libfam {
namespace {

// A value is shown in a message up to this many characters: a message stays one readable line.
constexpr std::size_t kMaxValueCharacters = 200;

std::string shortened(const std::string& text) {
  const std::u32string points = code_points(text);
  if (points.size() <= kMaxValueCharacters) return text;
  return utf8_from(std::u32string_view(points).substr(0, kMaxValueCharacters)) + "... (" +
         std::to_string(points.size()) + " characters)";
}

std::string text_of(const ErrorParts& parts) {
  std::vector<std::string> lines = {on_one_line(parts.what)};
  if (parts.got) lines.push_back(on_one_line("got " + shortened(parts.got->text)));
  if (!parts.expected.empty()) lines.push_back(on_one_line("expected " + parts.expected));
  if (!parts.fix.empty()) lines.push_back(on_one_line(parts.fix));
  return joined(lines, " | ");
}

bool is_disk_full(int error_number) {
#ifdef EDQUOT
  if (error_number == EDQUOT) return true;
#endif
  return error_number == ENOSPC;
}

bool is_permission(int error_number) {
  return error_number == EACCES || error_number == EPERM || error_number == EROFS;
}

// Bytes that are free on the disk of `path`, or of its nearest parent that exists.
std::optional<Repr> free_bytes(const std::string& path) {
  for (std::filesystem::path place = path;; place = place.parent_path()) {
    std::error_code failed;
    const auto space = std::filesystem::space(place.empty() ? "." : place, failed);
    if (!failed) return repr(std::to_string(space.available) + " bytes free");
    if (place.empty() || place == place.parent_path()) return std::nullopt;
  }
}

}  // namespace

const char* python_class_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_request:
      return "InvalidRequest";
    case ErrorCode::target_not_built:
      return "TargetNotBuilt";
    case ErrorCode::bundle_not_found:
      return "BundleNotFound";
    case ErrorCode::bundle_damaged:
      return "BundleDamaged";
    case ErrorCode::bundle_path_refused:
      return "BundlePathRefused";
    case ErrorCode::bundle_version_unsupported:
      return "BundleVersionUnsupported";
    case ErrorCode::storage:
      return "StorageError";
    case ErrorCode::backend:
      return "BackendError";
    case ErrorCode::out_of_memory:
      return "OutOfMemory";
    case ErrorCode::numeric:
      return "NumericError";
    case ErrorCode::cancelled:
      return "Cancelled";
    case ErrorCode::busy:
    case ErrorCode::internal:
      break;
  }
  return "FamError";
}

Error::Error(ErrorCode code, ErrorParts parts)
    : code_(code), parts_(std::move(parts)), text_(text_of(parts_)) {}

Error storage_error(int error_number, const std::string& path) {
  // Not std::strerror, whose buffer threads share.
  const std::string reason = std::generic_category().message(error_number);
  if (is_disk_full(error_number)) {
    return {ErrorCode::storage,
            {.what = "no space left on the disk while writing " + path,
             .got = free_bytes(path),
             .fix = "free some space or choose another place; nothing half-written was left "
                    "behind"}};
  }
  if (is_permission(error_number)) {
    return {ErrorCode::storage,
            {.what = path + " cannot be written",
             .got = repr(reason),
             .expected = "a place this user may write to",
             .fix = "choose another place or change its permissions"}};
  }
  return {
      ErrorCode::storage,
      {.what = "writing " + path + " failed", .got = repr(reason), .expected = "a working disk"}};
}

}  // namespace libfam
