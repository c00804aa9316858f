// The settings of a picture as JSON: everything that is needed to make it again.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sampling/request.h"
#include "sampling/stage_program.h"

namespace libfam {

inline constexpr int kSettingsVersion = 1;

// What a picture's settings say about where they were made.
struct Maker {
  std::string bundle_name;
  std::string bundle_hash;
  // Programs, versions and modes that decide a picture's last bits.
  std::vector<std::pair<std::string, std::string>> made_with;
};

// The settings of `picture` of `request`, as Python's json.dumps(…, sort_keys=True,
// ensure_ascii=False) writes them. Those of a native picture are its target's and say so.
std::string settings_of_picture(const Maker& maker, const Request& request,
                                const PictureRequest& picture, Stage stage);

}  // namespace libfam
