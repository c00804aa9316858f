#include "engines/tensorrt/verified_store.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/sha256.h"

namespace libfam {
namespace {

using Json = nlohmann::json;

constexpr const char* kRecordSuffix = ".json";
constexpr std::size_t kMaxRecordBytes = std::size_t{1} << 20;

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string_view text_of(const std::vector<std::uint8_t>& content) {
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

// Nothing, and why, if `text` is no record.
std::optional<StoreRecord> parse_record(std::string_view text, std::string& reason) {
  if (text.size() > kMaxRecordBytes) {
    reason = "too large";
    return std::nullopt;
  }
  const Json document = Json::parse(text, nullptr, false);
  if (document.is_discarded()) {
    reason = "it is no JSON";
    return std::nullopt;
  }
  reason = "it is no record";
  if (!document.is_object()) return std::nullopt;
  const auto bytes = document.find("bytes");
  const auto sha256 = document.find("sha256");
  const auto details = document.find("details");
  if (bytes == document.end() || sha256 == document.end() || details == document.end() ||
      !bytes->is_number_unsigned() || !sha256->is_string() || !details->is_object()) {
    return std::nullopt;
  }
  return StoreRecord{bytes->get<std::uint64_t>(), sha256->get<std::string>(), details->dump()};
}

// Names in a folder, in any order; none if it cannot be read. `matches` says which.
template <typename Matches>
std::vector<std::string> names_in(const std::string& folder, const Matches& matches) {
  std::vector<std::string> names;
  std::error_code failed;
  std::filesystem::directory_iterator entries(folder, failed);
  while (!failed && entries != std::filesystem::directory_iterator()) {
    if (std::string name = entries->path().filename().string(); matches(*entries, name)) {
      names.push_back(std::move(name));
    }
    entries.increment(failed);
  }
  return names;
}

}  // namespace

VerifiedStore::VerifiedStore(std::string root) : root_(std::move(root)) {
  while (root_.size() > 1 && root_.ends_with('/')) root_.pop_back();
}

void VerifiedStore::write(const std::string& name, const std::vector<std::uint8_t>& content,
                          const std::string& details) const {
  make_folders_of(name);
  const Json record = {{"bytes", content.size()},
                       {"sha256", sha256_hex(text_of(content))},
                       {"details", Json::parse(details)}};
  const std::string text = record.dump(1, ' ', true) + "\n";
  remove_file(path_of(name + kRecordSuffix));
  write_atomically(path_of(name), content, FileAccess::this_user);
  write_atomically(path_of(name + kRecordSuffix), {text.begin(), text.end()},
                   FileAccess::this_user);
}

StoreReading<StoredFile> VerifiedStore::read(const std::string& name) const {
  StoreReading<StoreRecord> record = this->record(name);
  if (!record.found) return {std::nullopt, std::move(record.damage)};
  std::string damage;
  std::optional<PrivateFile> data = map_private_file(path_of(name), damage);
  if (!data) return {std::nullopt, damage};
  if (data->nbytes() != record.found->bytes) {
    return {std::nullopt, file_name(name) + " has " + std::to_string(data->nbytes()) +
                              " bytes, and " + std::to_string(record.found->bytes) +
                              " were written"};
  }
  if (sha256_hex(data->bytes()) != record.found->sha256) {
    return {std::nullopt, file_name(name) + " was altered after it was written"};
  }
  return {StoredFile{std::move(*data), std::move(record.found->details)}, ""};
}

StoreReading<StoreRecord> VerifiedStore::record(const std::string& name) const {
  if (!check_folders(name)) return {};
  const std::string path = path_of(name + kRecordSuffix);
  std::string damage;
  const std::optional<PrivateFile> data = map_private_file(path, damage);
  if (!data) return {std::nullopt, damage};
  std::string reason;
  std::optional<StoreRecord> record = parse_record(data->bytes(), reason);
  if (!record) return {std::nullopt, file_name(path) + " cannot be read (" + reason + ")"};
  return {std::move(record), ""};
}

std::vector<std::string> VerifiedStore::names(const std::string& folder, const std::string& prefix,
                                              const std::string& suffix) const {
  const std::string end = suffix + kRecordSuffix;
  std::vector<std::string> names =
      names_in(path_of(folder), [&](const auto& entry, const std::string& name) {
        (void)entry;
        return name.size() >= prefix.size() + end.size() && name.starts_with(prefix) &&
               name.ends_with(end);
      });
  for (std::string& name : names) {
    name = folder + "/" + name.substr(0, name.size() - std::string_view(kRecordSuffix).size());
  }
  std::ranges::sort(names);
  return names;
}

std::vector<std::string> VerifiedStore::folders() const {
  std::vector<std::string> names = names_in(root_, [](const auto& entry, const std::string& name) {
    (void)name;
    std::error_code failed;
    return entry.is_directory(failed);
  });
  std::ranges::sort(names);
  return names;
}

std::vector<std::string> VerifiedStore::folders_of(const std::string& name) const {
  std::vector<std::string> folders = {root_};
  for (std::size_t slash = name.find('/'); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    folders.push_back(path_of(name.substr(0, slash)));
  }
  return folders;
}

bool VerifiedStore::check_folders(const std::string& name) const {
  return std::ranges::all_of(folders_of(name), [this](const std::string& folder) {
    return private_folder_exists(folder, root_);
  });
}

void VerifiedStore::make_folders_of(const std::string& name) const {
  std::error_code failed;
  const auto kind = std::filesystem::status(root_, failed).type();
  if (kind != std::filesystem::file_type::directory &&
      kind != std::filesystem::file_type::not_found) {
    throw Error(ErrorCode::backend, {.what = "the engine cache " + root_ + " is no folder",
                                     .expected = "a folder, or the name of one to make",
                                     .fix = "give another one by --cache-dir"});
  }
  const std::size_t slash = root_.rfind('/');
  if (slash != std::string::npos && slash != 0) make_folders(root_.substr(0, slash));
  for (const std::string& folder : folders_of(name)) make_private_folder(folder);
  check_folders(name);
}

}  // namespace libfam
