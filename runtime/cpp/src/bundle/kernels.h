// The kernel tables of a target, fm/kernels-HxW.safetensors, checked before use.
#pragma once

#include <cstdint>
#include <string_view>

#include "bundle/reader.h"

namespace libfam {

// The tables in the safetensors file `data`; `name` is the file's name in messages, `latent` the
// target's latent size.
// Raises: Error(bundle_damaged) if `data` is malformed, or a table is missing, has another dtype or
// shape, or is not finite.
KernelTables kernel_tables_from_bytes(std::string_view data, std::string_view name,
                                      std::int64_t timesteps, Size latent);

}  // namespace libfam
