#include "engines/free_memory.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "engines/device.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace libfam {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMost = std::int64_t{1} << 62;
// cgroup v1 writes "no limit" as a number near 2^63.
constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;

// Empty if the file cannot be read, or is not ASCII.
std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  return file.bad() || !ascii ? "" : text;
}

// `text` between each of `separator`; at most `most` pieces.
std::vector<std::string_view> split(std::string_view text, char separator,
                                    std::size_t most = std::string_view::npos) {
  std::vector<std::string_view> pieces;
  while (pieces.size() + 1 < most) {
    const std::size_t end = text.find(separator);
    if (end == std::string_view::npos) break;
    pieces.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  pieces.push_back(text);
  return pieces;
}

std::string_view stripped(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n\r\f\v";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// A decimal number without a sign, at most kMost.
std::optional<std::int64_t> number_in(std::string_view text) {
  const bool digits =
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text.empty() || !digits) return std::nullopt;
  std::int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() ? std::min(value, kMost) : kMost;
}

std::optional<std::int64_t> available_bytes(const fs::path& meminfo) {
  const std::string text = text_of(meminfo);
  for (const std::string_view line : split(text, '\n')) {
    const auto pieces = split(line, ':', 2);
    if (pieces.size() != 2 || pieces[0] != "MemAvailable") continue;
    const auto kibibytes = number_in(split(stripped(pieces[1]), ' ', 2)[0]);
    if (kibibytes) return std::min(*kibibytes, kMost / 1024) * 1024;
  }
  return std::nullopt;
}

std::optional<std::int64_t> unused_pages() {
#if defined(_SC_AVPHYS_PAGES)
  const long pages = ::sysconf(_SC_AVPHYS_PAGES);
  const long page_bytes = ::sysconf(_SC_PAGE_SIZE);
  if (pages >= 0 && page_bytes > 0) return std::int64_t{pages} * page_bytes;
#endif
  return std::nullopt;
}

// Files that the kernel holds for the group, such as a bundle just hashed, and can drop.
std::int64_t cached_bytes(const fs::path& group) {
  const std::string text = text_of(group / "memory.stat");
  for (const std::string_view line : split(text, '\n')) {
    const auto pieces = split(line, ' ', 2);
    if (pieces.size() != 2 || pieces[0] != "inactive_file") continue;
    if (const auto bytes = number_in(pieces[1])) return *bytes;
  }
  return 0;
}

std::optional<std::int64_t> room_in(const fs::path& group, const char* limit_name,
                                    const char* used_name) {
  const std::string limit_text = text_of(group / limit_name);
  const std::string used_text = text_of(group / used_name);
  const auto limit = number_in(stripped(limit_text));
  const auto used = number_in(stripped(used_text));
  if (!limit || !used || *limit > kNoLimit) return std::nullopt;
  return *limit - *used + cached_bytes(group);
}

// The group `path` below `mount`, and all that hold it.
std::vector<fs::path> with_parents(const fs::path& mount, std::string_view path) {
  std::vector<fs::path> groups = {mount};
  for (const std::string_view name : split(path, '/')) {
    if (!name.empty() && name != ".") groups.push_back(groups.back() / name);
  }
  return groups;
}

// What each control group above the process still has, version 2 and 1; no more than `most`.
std::int64_t least_room(const fs::path& root, std::int64_t most) {
  const std::string text = text_of(root / "proc/self/cgroup");
  for (const std::string_view line : split(text, '\n')) {
    if (line.empty()) continue;
    auto pieces = split(line, ':', 3);  // a number, controllers, a path
    pieces.resize(3);
    const auto controllers = split(pieces[1], ',');
    const bool second = pieces[1].empty();
    if (!second && std::find(controllers.begin(), controllers.end(), "memory") == controllers.end())
      continue;
    const fs::path mount = root / (second ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    for (const fs::path& group : with_parents(mount, pieces[2])) {
      const auto room = second ? room_in(group, "memory.max", "memory.current")
                               : room_in(group, "memory.limit_in_bytes", "memory.usage_in_bytes");
      if (room) most = std::min(most, *room);
    }
  }
  return most;
}

}  // namespace

std::optional<std::size_t> free_host_memory_bytes(const fs::path& root) {
  auto available = available_bytes(root / "proc/meminfo");
  if (!available) available = unused_pages();
  constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();
  const std::int64_t room = least_room(root, available.value_or(kUnlimited));
  if (room == kUnlimited) return std::nullopt;
  return static_cast<std::size_t>(std::max<std::int64_t>(room, 0));
}

std::optional<std::size_t> free_host_memory_bytes() { return free_host_memory_bytes("/"); }

void give_back_freed_memory() {
#if defined(__GLIBC__)
  // It keeps the pieces between blocks that are still in use. ONNX Runtime leaves many when it has
  // packed a session's weights: measured, 240 MB of convolutions held 725 MB after loading and 250
  // after this call, which took 20 ms.
  ::malloc_trim(0);
#endif
}

void free_large_blocks_at_once() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

}  // namespace libfam
