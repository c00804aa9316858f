#include "bundle/integrity.h"

#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "bundle/file_errors.h"

namespace libfam {
namespace {

constexpr const char* kFix = "get the bundle again or export it again with fam-export";

void compare_size(std::string_view name, std::uint64_t size, const FileRecord& expected) {
  if (std::cmp_equal(size, expected.bytes)) return;
  const bool shorter = std::cmp_less(size, expected.bytes);
  throw Error(ErrorCode::bundle_damaged, {.what = std::string(name) + " of the bundle is " +
                                                  (shorter ? "truncated" : "longer than listed"),
                                          .got = repr(std::to_string(size) + " bytes"),
                                          .expected = std::to_string(expected.bytes) + " bytes",
                                          .fix = kFix});
}

void compare_hash(std::string_view name, const std::string& sha256, const FileRecord& expected) {
  if (sha256 == expected.sha256) return;
  throw Error(
      ErrorCode::bundle_damaged,
      {.what = std::string(name) + " of the bundle has another content than manifest.json lists",
       .got = repr("SHA-256 " + sha256),
       .expected = "SHA-256 " + expected.sha256,
       .fix = kFix});
}

void report(const HashProgress& progress, std::size_t bytes) {
  if (!progress || progress(bytes)) return;
  throw Error(ErrorCode::cancelled, {.what = "the check of the bundle was stopped"});
}

void compare_content(const ConfinedFile& file, std::string_view name, const FileRecord& expected,
                     const HashProgress& progress) {
  Sha256 hash;
  std::vector<char> chunk(kHashChunkBytes);
  std::uint64_t count = 0;
  // A file that grows while it is read is wrong as soon as it is too long.
  while (std::cmp_less_equal(count, expected.bytes)) {
    const std::size_t got = file.read_at(count, chunk.data(), chunk.size());
    if (got == 0) break;
    hash.update(chunk.data(), got);
    count += got;
    report(progress, got);
  }
  compare_size(name, count, expected);
  compare_hash(name, hash.hex_digest(), expected);
}

}  // namespace

FileStatus verify_file(const std::string& root, std::string_view name, const FileRecord& expected,
                       bool contents, const HashProgress& progress) {
  if (!contents) {
    const FileStatus status = confined_status(root, name);
    compare_size(name, status.size, expected);
    return status;
  }
  const ConfinedFile file(root, name);
  compare_size(name, file.status().size, expected);
  try {
    compare_content(file, name, expected, progress);
  } catch (const std::system_error& error) {
    throw unreadable_file(name, error.code().value());
  }
  return file.status();
}

std::string checked_bytes(const std::string& root, std::string_view name,
                          const FileRecord& expected, std::uint64_t max_bytes) {
  if (std::cmp_greater(expected.bytes, max_bytes)) {
    throw Error(ErrorCode::bundle_damaged,
                {.what = std::string(name) + " of the bundle is too large to be read whole",
                 .got = repr(std::to_string(expected.bytes) + " bytes"),
                 .expected = "at most " + std::to_string(max_bytes) + " bytes",
                 .fix = kFix});
  }
  const ConfinedFile file(root, name);
  compare_size(name, file.status().size, expected);
  // One byte more, which shows a file that grew.
  std::string data(static_cast<std::size_t>(expected.bytes) + 1, '\0');
  try {
    data.resize(file.read_at(0, data.data(), data.size()));
  } catch (const std::system_error& error) {
    throw unreadable_file(name, error.code().value());
  }
  compare_size(name, data.size(), expected);
  compare_hash(name, sha256_hex(data), expected);
  return data;
}

}  // namespace libfam
