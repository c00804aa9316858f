// From the C structs to the arguments of the pipeline.
#pragma once

#include "fam/fam.h"
#include "pipeline.h"

namespace libfam::api {

// Raises: Error(invalid_request) for what no Call can hold.
Call call_from_request(const fam_request& request);

PipelineOptions options_from(const fam_pipeline_options& options);

// The C callback as a watcher; none gives one that watches nothing.
Watcher watcher_from(fam_progress_callback callback, void* user_data, bool wants_latents);

}  // namespace libfam::api
