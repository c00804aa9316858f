// What Python cannot ask of the reader of bundles: races, failing disks, windows, large inputs.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "bundle/confined_files.h"
#include "bundle/integrity.h"
#include "bundle/onnx_outline.h"
#include "unit/error_of.h"

namespace libfam {
namespace {

namespace fs = std::filesystem;

// A folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "fam-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

FileRecord record_of(const std::string& text) {
  return {static_cast<std::int64_t>(text.size()), sha256_hex(text)};
}

// Calls `attempt` while another thread calls `change`, each for `duration`.
template <typename Change, typename Attempt>
void race(std::chrono::milliseconds duration, const Change& change, const Attempt& attempt) {
  std::atomic<bool> stop = false;
  // Ends the thread also when a check fails, which leaves by an exception.
  struct Changer {
    std::atomic<bool>& stop;
    std::thread thread;
    ~Changer() {
      stop = true;
      thread.join();
    }
  };
  const Changer changer{stop, std::thread([&] {
                          while (!stop) change();
                        })};
  const auto end = std::chrono::steady_clock::now() + duration;
  while (std::chrono::steady_clock::now() < end) attempt();
}

TEST_CASE("a component that is swapped for a link never leads out of the bundle") {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "bundle";
  const fs::path outside = folder.path() / "outside";
  write(outside / "file", "secret");
  write(root / "in/file", "listed");
  const fs::path swapped = root / "in";
  const fs::path spare = root / "spare";
  fs::create_directory_symlink(outside, spare);
  const auto swap = [&] {
    const fs::path third = root / "third";
    fs::rename(swapped, third);
    fs::rename(spare, swapped);
    fs::rename(third, spare);
  };
  std::uint64_t read = 0;
  std::uint64_t refused = 0;
  race(std::chrono::milliseconds(700), swap, [&] {
    try {
      const std::string data =
          checked_bytes(root.string(), "in/file", record_of("listed"), 1 << 20);
      REQUIRE(data == "listed");
      ++read;
    } catch (const Error& error) {
      // Another content would say that the file outside had been read.
      REQUIRE(error.parts().what.find("content") == std::string::npos);
      ++refused;
    }
  });
  CHECK(read > 0);
  CHECK(refused > 0);
}

TEST_CASE("a pipe in place of a file does not make the opening wait") {
  const TemporaryFolder folder;
  write(folder.path() / "file", "listed");
  const fs::path file = folder.path() / "file";
  const fs::path pipe = folder.path() / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const auto swap = [&] {
    const fs::path third = folder.path() / "third";
    fs::rename(file, third);
    fs::rename(pipe, file);
    fs::rename(third, pipe);
  };
  int attempts = 0;
  race(std::chrono::milliseconds(300), swap, [&] {
    error_of([&] { ConfinedFile(folder.path().string(), "file"); });
    ++attempts;
  });
  CHECK(attempts > 10);
}

TEST_CASE("every descriptor is closed again") {
  const TemporaryFolder folder;
  write(folder.path() / "a/b/file", "listed");
  const auto open_now = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  const auto before = open_now();
  for (const char* name : {"a/b/file", "a/b", "a/missing", "missing/b/file", "a/b/file/x"}) {
    error_of([&] { ConfinedFile(folder.path().string(), name); });
    CHECK(open_now() == before);
  }
}

TEST_CASE("a check is stopped where it stands, and the bytes are those of the file") {
  const TemporaryFolder folder;
  const std::string text(3 * kHashChunkBytes + 5, 'x');
  write(folder.path() / "file", text);
  const std::string root = folder.path().string();
  std::vector<std::uint64_t> reports;
  const auto check = [&](std::size_t stop_at) {
    reports.clear();
    verify_file(root, "file", record_of(text), true, [&](std::uint64_t bytes) {
      reports.push_back(bytes);
      return reports.size() < stop_at;
    });
  };
  CHECK(error_of([&] { check(2); }).first == ErrorCode::cancelled);
  CHECK(reports == std::vector<std::uint64_t>(2, kHashChunkBytes));
  check(5);
  CHECK(reports ==
        std::vector<std::uint64_t>{kHashChunkBytes, kHashChunkBytes, kHashChunkBytes, 5});
}

TEST_CASE("a file that grows without end is given up") {
  const TemporaryFolder folder;
  write(folder.path() / "file", "listed");
  const auto grow = [&](std::uint64_t) {
    std::ofstream(folder.path() / "file", std::ios::app) << std::string(1 << 16, 'x');
    return true;
  };
  const auto check = [&] {
    verify_file(folder.path().string(), "file", record_of("listed"), true, grow);
  };
  CHECK(error_of(check).first == ErrorCode::bundle_damaged);
  CHECK(fs::file_size(folder.path() / "file") < (1 << 18));
}

TEST_CASE("more bytes than are to be read whole are refused before they are read") {
  const TemporaryFolder folder;
  write(folder.path() / "file", "listed");
  const auto read = [&] { checked_bytes(folder.path().string(), "file", record_of("listed"), 5); };
  CHECK_THROWS_WITH(read(),
                    "file of the bundle is too large to be read whole | got '6 bytes' | expected "
                    "at most 5 bytes | get the bundle again or export it again with fam-export");
}

}  // namespace
}  // namespace libfam
