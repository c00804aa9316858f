"""TorchCudaNoise: Philox by its published vectors, the values by what real GPUs printed."""

from __future__ import annotations

import numpy as np
import pytest

from fam_runtime.errors import InvalidRequest
from fam_runtime.noise import TorchCudaNoise
from fam_runtime.noise._philox import philox4x32


def words(*values):
    return tuple(np.array([value], dtype=np.uint32) for value in values)


# Random123, tests/kat_vectors, "philox4x32 10": counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, output):
    assert tuple(int(w[0]) for w in philox4x32(words(*counter), key)) == output


def test_values_that_a_gpu_printed_for_seed_0():
    """torch.manual_seed(0); torch.randn(8, 8, device="cuda"): first 3 rows and the last one.

    Printed in public notes on the CUDA MODE lectures (torch 2.2.0, compute capability 7.5).
    """
    printed = [
        [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284],
        [-1.0745, -0.3631, -1.6711, 2.2655, 0.3117, -0.1842, 1.2866, 1.1820],
        [-0.1271, 1.2169, 1.4353, 1.0605, -0.4941, -1.4244, -0.7244, -1.2973],
        [-0.5499, -0.3231, -0.5469, 0.9049, 0.2837, 0.1210, 0.4730, -1.0823],
    ]
    values = TorchCudaNoise(0).normal((8, 8))
    np.testing.assert_allclose(values[[0, 1, 2, 7]], printed, atol=6e-5)


def test_six_calls_that_a_gpu_printed_for_seed_42():
    """The offset between calls: six CUDA tensors of 4 values in a public PyTorch reproducer.

    The reproducer does not state how they were drawn; all 24 values are those of seed 42.
    """
    printed = [
        [0.1940, 2.1614, -0.1721, 0.8491],
        [0.1391, -0.1082, -0.7174, 0.7566],
        [-0.5187, 1.2268, 0.6255, -0.9117],
        [-0.6974, -1.8688, -0.8832, -1.6627],
        [-1.2682, -0.0383, -0.1029, 1.4400],
        [1.4640, -0.3238, 0.7740, 1.5892],
    ]
    noise = TorchCudaNoise(42)
    np.testing.assert_allclose([noise.normal((4,)) for _ in printed], printed, atol=6e-5)


def test_rows_of_a_larger_tensor_that_a_gpu_printed_for_seed_42():
    """torch.randn(1823, 781, device="cuda")[0:10] from public code: ends of rows 0, 1, 9."""
    values = TorchCudaNoise(42).normal((1823, 781))
    np.testing.assert_allclose(values[0, -3:], [-0.8353, -1.6443, 0.1315], atol=6e-5)
    np.testing.assert_allclose(values[1, :3], [-0.1797, 0.9744, -2.0136], atol=6e-5)
    np.testing.assert_allclose(values[9, -3:], [-0.2081, -1.0439, 0.7082], atol=6e-5)


def draw(seed, thread, counter):
    """The four normals of one thread, in float64: an independent, scalar Box-Muller."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    out = [int(w[0]) for w in philox4x32(words(counter, 0, thread, 0), key)]
    normals = []
    for x, y in (out[:2], out[2:]):
        radius = np.sqrt(-2 * np.log((x + 0.5) / 2**32))
        angle = 2 * np.pi * (y + 0.5) / 2**32
        normals += [radius * np.sin(angle), radius * np.cos(angle)]
    return normals


def test_grid_stride_layout_on_a_small_gpu():
    """One multiprocessor of 256 threads: value 4 G k + G i + g is word pair i of thread g."""
    threads, seed = 256, 2**33 + 5
    noise = TorchCudaNoise(seed, multiprocessors=1, max_threads_per_multiprocessor=256)
    values = noise.normal((4 * threads * 2 + 300,))
    for position in (0, 255, 256, 511, 512, 1023, 1024, 1300, 2047, 2048, 2347):
        k, rest = divmod(position, 4 * threads)
        i, g = divmod(rest, threads)
        assert values[position] == pytest.approx(draw(seed, g, k)[i], abs=2e-6)
    # three rounds of four values: the next call starts at counter 3
    assert noise.normal((1,))[0] == pytest.approx(draw(seed, 0, 3)[0], abs=2e-6)


def test_size_of_the_gpu_matters_only_above_the_limit():
    small = {"multiprocessors": 4, "max_threads_per_multiprocessor": 1024}
    limit = 4 * 1024
    assert np.array_equal(
        TorchCudaNoise(1, **small).normal((limit,)), TorchCudaNoise(1).normal((limit,))
    )
    above = TorchCudaNoise(1, **small).normal((limit + 1,))
    other = TorchCudaNoise(1).normal((limit + 1,))
    assert np.array_equal(above[:limit], other[:limit])
    assert above[limit] != other[limit]


def test_default_limit_covers_a_2048_pixel_latent():
    default, other = TorchCudaNoise(3), TorchCudaNoise(3, multiprocessors=10_000)
    assert np.array_equal(default.normal((1, 4, 256, 256)), other.normal((1, 4, 256, 256)))


def test_an_empty_tensor_leaves_the_stream_alone():
    noise = TorchCudaNoise(2)
    assert noise.normal((0, 4)).shape == (0, 4)
    assert np.array_equal(noise.normal((4,)), TorchCudaNoise(2).normal((4,)))


@pytest.mark.parametrize("gpu", [(0, 2048), (108, 255)])
def test_impossible_gpu(gpu):
    with pytest.raises(InvalidRequest, match=r"cannot run one block.*at least 256 threads"):
        TorchCudaNoise(1, *gpu)


def test_too_many_values():
    with pytest.raises(InvalidRequest, match=r"too many values.*at most 536870912"):
        TorchCudaNoise(1).normal((2**15, 2**15))
