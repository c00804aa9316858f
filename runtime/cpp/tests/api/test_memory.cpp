// Loading, making a picture and freeing, again and again: memory does not grow.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "api/bundle.h"

namespace {

// Resident memory in KiB; 0 where the system does not say.
long resident_kib() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/status", "r"),
                                                             &std::fclose);
  char line[256];
  while (file && std::fgets(line, sizeof line, file.get()) != nullptr) {
    if (std::strncmp(line, "VmRSS:", 6) == 0) return std::strtol(line + 6, nullptr, 10);
  }
  return 0;
}

void cycle() {
  fam::Pipeline pipeline(test_bundle(), one_thread());
  CHECK(pipeline.generate(small_request(1)).size() == 1);
}

}  // namespace

// FAM_TEST_CYCLES: 200 in the documented run.
TEST_CASE("load, generate, free") {
  const char* asked = std::getenv("FAM_TEST_CYCLES");
  const int cycles = asked == nullptr ? 20 : std::atoi(asked);
  for (int i = 0; i < 10; ++i) cycle();
  const long before = resident_kib();
  for (int i = 0; i < cycles; ++i) cycle();
  const long grown = resident_kib() - before;
  MESSAGE(cycles, " cycles, ", before, " KiB before, grown by ", grown, " KiB");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(grown < 8 * 1024);
#endif
}
