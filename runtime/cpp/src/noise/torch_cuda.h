// The noise of torch's CUDA generator, without torch and without a GPU.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "noise/noise_source.h"

namespace libfam {

// The numbers of torch.cuda.get_device_properties that the stream depends on. The defaults are
// those of H100 SXM and H200.
struct NoiseGpu {
  std::int64_t multiprocessors = 132;
  std::int64_t max_threads_per_multiprocessor = 2048;
};

// `torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed))` in float32.
//
// ATen starts `G = 256 * min(ceil(n / 256), multiprocessors * floor(max_threads / 256))` threads
// for n values. Thread g draws from Philox4x32-10 with the seed as key and the counter (offset / 4
// + k, g), both halves 64 bits, in round k of its loop; the four words give four normals, which
// land at positions `4 G k + G i + g`, i = 0..3. After the call the offset grows by `4 ceil(n / (4
// G))`. Calls of up to `multiprocessors * max_threads` values (270,336 with the defaults: 4 latent
// channels of 260 x 260) do not depend on the GPU.
//
// A pair of words x, y gives, as cuRAND's `_curand_box_muller`,
//
//     s = sqrt(-2 log(x 2^-32 + 2^-33)),  v = 2 pi (y 2^-32 + 2^-33),  (s sin v, s cos v).
//
// fam_runtime/noise/torch_cuda.py says what was verified against real GPUs. Not reproduced: the
// last bits. The GPU takes sin and cos from its fast approximation and log from CUDA's library,
// NumPy takes them from its own float32 kernels, which change with its version and with the
// processor. We take the C library's in float64 and round once to float32.
class TorchCudaNoise final : public NoiseSource {
 public:
  // Raises: Error(invalid_request) if the GPU has no room for a block of 256 threads.
  explicit TorchCudaNoise(Seed seed, const NoiseGpu& gpu = {});

  // Raises: Error(invalid_request) if a dimension is negative or there are more than 2^29 elements.
  std::vector<float> normal(const Shape& shape) override;

 private:
  void draw(std::uint64_t counter, std::uint64_t threads, std::span<float> out) const;

  std::array<std::uint32_t, 2> key_;
  std::uint64_t max_blocks_;
  std::uint64_t offset_ = 0;
};

}  // namespace libfam
