// What a call did, besides pictures.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "sampling/stage_program.h"

namespace libfam {

// Keys and meaning are those of fam_runtime/generation.py, which has `memory` besides: there is no
// memory budget here.
struct Report {
  NativeAttention native_attention = NativeAttention::none;
  std::uint64_t stored_bytes = 0;         // what `store` takes for a batch
  std::uint64_t memory_budget_bytes = 0;  // what the native attention was allowed to take
  // Bytes of the buffers that stay on the device for all steps of a call; 0 on the host, where they
  // come and go.
  std::uint64_t device_buffers = 0;
  // Per stage; `load` is the time for loading graphs in all of them.
  std::map<std::string, double> seconds;
  // Mean time of a step per stage, as the device measured it.
  std::map<std::string, double> step_seconds;

  std::string json() const;
};

}  // namespace libfam
