// How much memory is free, as the system says and as the process's control groups allow; and how
// the C library gives memory back. See also free_host_memory_bytes in device.h.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>

namespace libfam {

// free_host_memory_bytes() of a system whose /proc and /sys are in the folder `root`.
std::optional<std::size_t> free_host_memory_bytes(const std::filesystem::path& root);

// Makes the C library return each large block when it is freed, where it is glibc.
//
// By itself it learns to keep blocks of up to 32 MB for reuse, and tensors of many sizes leave
// holes: measured without ONNX Runtime's arena, a step at 96 x 96 latent samples with 180 MB of
// live tensors took 580 MB, and 250 MB with this. It holds for the process from now on.
void free_large_blocks_at_once();

}  // namespace libfam
