#include <bit>
#include <charconv>

#include "base/error.h"
#include "base/python_text.h"
#include "base/sha256.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

// A double by the sixteen hexadecimal digits of its bits: JSON has no NaN.
double double_from(const Json& in) {
  const auto digits = in.at("bits").get<std::string>();
  std::uint64_t bits = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), bits, 16);
  return std::bit_cast<double>(bits);
}

const Registration kRepr("base.repr", [](const Json& in) {
  return repr(in.at("text").get<std::string>()).text;
});

const Registration kNumber("base.number", [](const Json& in) {
  const double value = double_from(in);
  return Json{{"repr", repr(value).text}, {"general", general_text(value)}};
});

const Registration kText("base.text", [](const Json& in) {
  const auto text = in.at("text").get<std::string>();
  return Json{{"strip", strip(text)},
              {"on_one_line", on_one_line(text)},
              {"is_printable", is_printable(text)},
              {"length", length_in_code_points(text)}};
});

const Registration kUtf8("base.utf8", [](const Json& in) {
  std::size_t bad_byte = 0;
  const bool valid = is_utf8(read_bytes(in.at("path").get<std::string>()), &bad_byte);
  return valid ? Json(nullptr) : Json(bad_byte);
});

const Registration kError("base.error", [](const Json& in) -> Json {
  ErrorParts parts{.what = in.at("what").get<std::string>(),
                   .expected = in.at("expected").get<std::string>(),
                   .fix = in.at("fix").get<std::string>()};
  if (!in.at("got").is_null()) parts.got = repr(in.at("got").get<std::string>());
  throw Error(ErrorCode::invalid_request, parts);
});

const Registration kStorageError("base.storage_error", [](const Json& in) -> Json {
  throw storage_error(in.at("errno").get<int>(), in.at("path").get<std::string>());
});

const Registration kSha256("base.sha256", [](const Json& in) {
  return sha256_hex(read_bytes(in.at("path").get<std::string>()));
});

}  // namespace
}  // namespace libfam::probe
