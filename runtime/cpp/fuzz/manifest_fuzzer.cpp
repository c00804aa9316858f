// manifest.json from anywhere: a manifest, or an Error, for any bytes.
//
// To begin with: manifest.json of any bundle as a corpus, and -dict=manifest.dict.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "bundle/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    libfam::Manifest::from_bytes({reinterpret_cast<const char*>(data), size});
  } catch (const libfam::Error&) {
  }
  return 0;
}
