#include "sampling/arguments.h"

#include "base/error.h"

namespace libfam {
namespace {

Error out_of_range(const std::string& what, Repr got, const std::string& expected) {
  return {ErrorCode::invalid_request,
          {.what = what + " is out of range",
           .got = std::move(got),
           .expected = expected,
           .fix = "leave it out for the default"}};
}

}  // namespace

std::int64_t whole_number(const std::string& what, std::int64_t value, std::int64_t minimum) {
  if (value >= minimum) return value;
  throw out_of_range(what, repr(value), "a whole number of at least " + std::to_string(minimum));
}

double real_number(const std::string& what, double value, double low, double high) {
  if (low <= value && value <= high) return value;
  throw out_of_range(what, repr(value),
                     "a number from " + general_text(low) + " to " + general_text(high));
}

}  // namespace libfam
