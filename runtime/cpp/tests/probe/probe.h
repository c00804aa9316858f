// A program for tests: what the runtime's parts compute, asked from Python over pipes.
//
// Each line on the standard input is a JSON object {"command": name, …}; each line on the standard
// output is {"ok": value}, or {"error": {"code", "class", "text"}} for an Error. Arrays travel in files
// whose paths the caller gives.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "base/tensor.h"

namespace libfam::probe {

using Json = nlohmann::json;
using Command = std::function<Json(const Json&)>;

// At namespace scope: `const Registration kNormal("noise.normal", [](const Json& in) { … });`
struct Registration {
  Registration(const char* name, Command command);
};

// Raw little-endian bytes of `count` elements, to and from a file.
void write_bytes(const std::string& path, const void* data, std::size_t nbytes);
std::string read_bytes(const std::string& path);

}  // namespace libfam::probe
