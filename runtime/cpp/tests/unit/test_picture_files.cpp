// Files that appear whole or not at all, with several writers and readers at once.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/error.h"
#include "base/atomic_file.h"
#include "unit/call_case.h"

namespace libfam {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::size_t files_in(const std::string& folder) {
  const std::filesystem::directory_iterator files(folder);
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

TEST_CASE("whoever reads finds one writer's file, whole") {
  const fakes::CallFolder folder;
  const std::string path = folder.path + "/a.png";
  constexpr std::size_t kSize = 1 << 16;
  write_atomically(path, Bytes(kSize, 0));
  std::atomic<bool> done = false;
  std::vector<std::thread> writers;
  for (std::uint8_t value = 1; value <= 2; ++value) {
    writers.emplace_back([&path, value] {
      for (int i = 0; i < 30; ++i) write_atomically(path, Bytes(kSize, value));
    });
  }
  std::size_t torn = 0;
  std::thread reader([&] {
    while (!done) {
      const Bytes read = content_of(path);
      const bool whole = read.size() == kSize && read == Bytes(kSize, read.front());
      if (!whole) ++torn;
    }
  });
  for (std::thread& writer : writers) writer.join();
  done = true;
  reader.join();
  CHECK(torn == 0);
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("a disk that fills up leaves what was there") {
  const fakes::CallFolder folder;
  const std::string path = folder.path + "/a.png";
  write_atomically(path, {1, 2, 3});
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // write() then fails with EFBIG
  rlimit small = before;
  small.rlim_cur = 1000;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  bool failed = false;
  try {
    write_atomically(path, Bytes(5000, 7));
  } catch (const Error& error) {
    failed = error.code() == ErrorCode::storage;
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(failed);
  CHECK(content_of(path) == Bytes{1, 2, 3});
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("the same bytes whatever ran before, and in several threads at once") {
  const Size size = {61, 47};
  Bytes rgb(61 * 47 * 3);
  for (std::size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<std::uint8_t>(i * i % 251);
  const std::string settings = R"({"prompt": "a cat", "seed": 3})";
  const Bytes expected = png_from_rgb(rgb.data(), size, settings);
  std::atomic<int> different = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 10; ++k) {
        if (png_from_rgb(rgb.data(), size, settings) != expected) ++different;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(different == 0);
}

}  // namespace
}  // namespace libfam
