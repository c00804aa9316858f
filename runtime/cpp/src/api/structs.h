// Structs of the C ABI, whose size says which version of the header the caller was compiled with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/error.h"

namespace libfam::api {

// Larger than any struct of any version: a size above is no size.
inline constexpr std::uint32_t kMaxStructBytes = std::uint32_t{1} << 16;

// The struct_size of `given`, which is called `name`.
// Raises: Error(invalid_request) if it was not set.
template <class Struct>
std::uint32_t checked_size(const Struct* given, const char* name) {
  const std::uint32_t size = given == nullptr ? 0 : given->struct_size;
  if (size < sizeof size || size > kMaxStructBytes) {
    throw Error(ErrorCode::invalid_request,
                {.what = std::string("the struct_size of ") + name + " is not set",
                 .got = repr(std::uint64_t{size}),
                 .expected = std::string("sizeof(") + name + ")",
                 .fix = "set struct_size before the call"});
  }
  return size;
}

// A copy of the caller's `given` in this library's layout: what an older caller does not have is
// zero, the default; what a newer one has must be zero, since this library cannot do it.
// Raises: Error(invalid_request) if its size is not set, or something unknown is asked for.
template <class Struct>
Struct read_struct(const Struct* given, const char* name) {
  Struct copy{};
  copy.struct_size = sizeof(Struct);
  if (given == nullptr) return copy;
  const std::uint32_t size = checked_size(given, name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (size > sizeof(Struct) &&
      std::any_of(bytes + sizeof(Struct), bytes + size, [](unsigned char b) { return b != 0; })) {
    throw Error(ErrorCode::invalid_request,
                {.what = std::string(name) + " asks for something that this libfam does not know",
                 .expected = "only fields of this library's version",
                 .fix = "use the libfam that the program was compiled for, or a newer one"});
  }
  std::memcpy(&copy, given, std::min<std::size_t>(size, sizeof(Struct)));
  copy.struct_size = sizeof(Struct);
  return copy;
}

// Writes as much of `made` as the caller has room for, and zeros beyond what this library knows;
// leaves its struct_size.
// Raises: Error(invalid_request) if that is not set.
template <class Struct>
void write_struct(const Struct& made, Struct* given, const char* name) {
  const std::uint32_t size = checked_size(given, name);
  std::memset(static_cast<void*>(given), 0, size);
  std::memcpy(given, &made, std::min<std::size_t>(size, sizeof(Struct)));
  given->struct_size = size;
}

// Raises: Error(invalid_request) if `pointer`, called `name`, is null.
template <class Type>
Type& not_null(Type* pointer, const char* name) {
  if (pointer == nullptr) {
    throw Error(ErrorCode::invalid_request, {.what = std::string(name) + " is NULL",
                                             .expected = "a pointer",
                                             .fix = "pass what an earlier call gave"});
  }
  return *pointer;
}

}  // namespace libfam::api
