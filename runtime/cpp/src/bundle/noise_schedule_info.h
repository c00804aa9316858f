// The `noise_schedule` of a manifest: the keys of a diffusers scheduler that count.
#pragma once

#include "bundle/json_cursor.h"
#include "bundle/manifest.h"

namespace libfam {

// The noise schedule at `at`, every key, each of the right type and in range.
// Raises: Error(bundle_damaged) naming the key that is not right.
NoiseScheduleInfo noise_schedule_from(const JsonCursor& at);

}  // namespace libfam
