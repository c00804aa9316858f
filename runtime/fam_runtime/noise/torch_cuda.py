"""The noise of torch's CUDA generator, without torch and without a GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest
from fam_runtime.noise._fused import fused_multiply_add
from fam_runtime.noise._philox import Words, philox4x32
from fam_runtime.noise.base import Float32Array, element_count_from_shape, seed_bits_from_seed

_THREADS_PER_BLOCK = 256  # ATen's block_size_bound
_VALUES_PER_DRAW = 4  # curand_normal4
_MAX_ELEMENTS = 2**29  # above 2 GiB ATen cuts the tensor and starts several kernels

_TWO_POW_MINUS_32 = np.float32(2.3283064e-10)
_TWO_PI_POW_MINUS_32 = _TWO_POW_MINUS_32 * np.float32(6.2831855)
_MINUS_TWO, _HALF = np.float32(-2.0), np.float32(0.5)

_MULTIPROCESSORS = 132
_MAX_THREADS_PER_MULTIPROCESSOR = 2048


class TorchCudaNoise:
    """`torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed))` in float32.

    ATen starts `G = 256 * min(ceil(n / 256), multiprocessors * floor(max_threads / 256))` threads
    for n values. Thread g draws from Philox4x32-10 with the seed as key and the counter
    (offset / 4 + k, g), both halves 64 bits, in round k of its loop; the four words give four
    normals, which land at positions `4 G k + G i + g`, i = 0..3. After the call the offset grows
    by `4 ceil(n / (4 G))`. Calls of up to `multiprocessors * max_threads` values (270,336
    with the defaults: 4 latent channels of 260 x 260) do not depend on the GPU.

    A pair of words x, y gives, as cuRAND's `_curand_box_muller`,

        s = sqrt(-2 log(x 2^-32 + 2^-33)),  v = 2 pi (y 2^-32 + 2^-33),  (s sin v, s cos v).

    Verified, without a GPU of our own: Philox, by the test vectors of Random123; the values and
    the growth of the offset over six calls, by tensors that others printed on real GPUs to four
    decimals (tests/runtime/test_noise_cuda.py). Taken from ATen's source, tested only for its
    structure: the grid above the size limit, seeds above 2^32. Not reproduced: the last bits. The
    GPU takes sin and cos from its fast approximation (`__sincosf`) and log from CUDA's library;
    expect differences of a few 1e-6 (an estimate from those functions' documented errors).
    A float16 or bfloat16 tensor of torch's CUDA generator holds these values, rounded.
    """

    def __init__(
        self,
        seed: int,
        multiprocessors: int = _MULTIPROCESSORS,
        max_threads_per_multiprocessor: int = _MAX_THREADS_PER_MULTIPROCESSOR,
    ) -> None:
        """Start the stream of `seed` as on a GPU of the given size.

        `torch.cuda.get_device_properties(0)` shows both numbers: `multi_processor_count` and
        `max_threads_per_multi_processor`. The defaults are those of H100 SXM and H200; A100 has
        108 and 2048, RTX 4090 128 and 1536, RTX 3090 82 and 1536, T4 40 and 1024.

        Raises:
            InvalidRequest: `seed` is no integer or out of range; the GPU has no room for a block.
        """
        if multiprocessors < 1 or max_threads_per_multiprocessor < _THREADS_PER_BLOCK:
            raise InvalidRequest(
                "the GPU described for torch-cuda noise cannot run one block",
                got=(multiprocessors, max_threads_per_multiprocessor),
                expected="at least 1 multiprocessor of at least 256 threads",
                fix="pass the numbers of torch.cuda.get_device_properties",
            )
        seed_bits = seed_bits_from_seed(seed)
        self._key = (seed_bits & 0xFFFFFFFF, seed_bits >> 32)
        self._max_blocks = multiprocessors * (max_threads_per_multiprocessor // _THREADS_PER_BLOCK)
        self._offset = 0

    def normal(self, shape: tuple[int, ...]) -> Float32Array:
        """Return the next N(0, 1) values, float32 of `shape`.

        Raises:
            InvalidRequest: `shape` has a negative dimension or more than 2^29 elements.
        """
        size = element_count_from_shape(shape)
        if size > _MAX_ELEMENTS:
            raise InvalidRequest(
                "too many values for one call of torch-cuda noise",
                got=size,
                expected=f"at most {_MAX_ELEMENTS}",
                fix="lower the resolution or the batch",
            )
        if size == 0:
            return np.empty(shape, dtype=np.float32)
        blocks = min(-(-size // _THREADS_PER_BLOCK), self._max_blocks)
        threads = blocks * _THREADS_PER_BLOCK
        rounds = -(-size // (threads * _VALUES_PER_DRAW))
        values = np.empty((rounds, _VALUES_PER_DRAW, threads), dtype=np.float32)
        for index in range(rounds):
            used = min(_VALUES_PER_DRAW, -(-(size - index * _VALUES_PER_DRAW * threads) // threads))
            self._draw(self._offset // 4 + index, threads, used, values[index])
        self._offset += _VALUES_PER_DRAW * rounds
        return values.reshape(-1)[:size].reshape(shape).copy()

    def _draw(self, counter: int, threads: int, used: int, out: Float32Array) -> None:
        """Write the first `used` of four normals of every thread into `out` [4, threads]."""
        thread = np.arange(threads, dtype=np.uint32)
        low = np.full_like(thread, counter & 0xFFFFFFFF)
        high = np.full_like(thread, counter >> 32 & 0xFFFFFFFF)
        words = philox4x32((low, high, thread, np.zeros_like(thread)), self._key)
        out[0], out[1] = _box_muller(words[0], words[1])
        if used > 2:
            out[2], out[3] = _box_muller(words[2], words[3])


def _box_muller(x: Words, y: Words) -> tuple[Float32Array, Float32Array]:
    """Return two normals per pair of words, in cuRAND's order: sine first."""
    u = _scaled_to_open_interval(x, _TWO_POW_MINUS_32)
    v = _scaled_to_open_interval(y, _TWO_PI_POW_MINUS_32)
    # In float64, rounded once: NumPy's float32 kernels change with its version and the processor.
    log, sine, cosine = np.log(_float64(u)), np.sin(_float64(v)), np.cos(_float64(v))
    radius: npt.NDArray[np.float32] = np.sqrt(_MINUS_TWO * log.astype(np.float32))
    return radius * sine.astype(np.float32), radius * cosine.astype(np.float32)


def _float64(values: Float32Array) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)


def _scaled_to_open_interval(words: Words, scale: np.float32) -> Float32Array:
    """Return words * scale + scale / 2, rounded once (nvcc contracts it into an FMA)."""
    return fused_multiply_add(words.astype(np.float32), scale, scale * _HALF)
