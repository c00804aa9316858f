"""TorchCpuNoise against torch's CPU generator, bit for bit."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_runtime.errors import InvalidRequest
from fam_runtime.noise import NOISE_SOURCES, TorchCpuNoise, TorchCudaNoise, noise_source
from fam_runtime.noise._fused import fused_multiply_add

SEEDS = (0, 1, 7, 42, 1234567890, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63, 2**64 - 1, -1, -7)
SHAPES = (
    *((n,) for n in range(1, 16)),
    *((16,), (17,), (31,), (32,), (33,), (47,), (1000,), (1024,), (1,), (0,), (16, 0)),
    *((2, 4, 16, 16), (1, 4, 128, 128), (3, 5, 7), ()),
)


def torch_module():
    """torch, if this machine runs its AVX2 kernel; a reason to skip otherwise."""
    torch = pytest.importorskip("torch")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("AVX2", "AVX512"):
        pytest.skip(f"torch runs its {capability} kernel here, which gives other last bits")
    return torch


@pytest.mark.parametrize("seed", SEEDS)
def test_one_call_equals_torch_bit_for_bit(seed):
    torch = torch_module()
    for shape in SHAPES:
        expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
        actual = TorchCpuNoise(seed).normal(shape)
        assert actual.dtype == np.float32 and actual.shape == shape
        assert actual.tobytes() == expected.tobytes(), shape


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sequence_of_calls_equals_torch_bit_for_bit(seed):
    torch = torch_module()
    generator, noise = torch.Generator().manual_seed(seed), TorchCpuNoise(seed)
    order = np.random.RandomState(seed % 2**32).permutation(len(SHAPES) * 3) % len(SHAPES)
    for index in order:
        shape = SHAPES[index]
        expected = torch.randn(shape, generator=generator).numpy()
        assert noise.normal(shape).tobytes() == expected.tobytes(), shape


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=8),
)
def test_any_seed_and_any_sizes_equal_torch(seed, sizes):
    torch = torch_module()
    generator, noise = torch.Generator().manual_seed(seed), TorchCpuNoise(seed)
    for size in sizes:
        expected = torch.randn(size, generator=generator).numpy()
        assert noise.normal((size,)).tobytes() == expected.tobytes()


def test_a_million_values_equal_torch():
    """Enough values to meet the rare roundings: a wrong FMA shows once in about 5000."""
    torch = torch_module()
    expected = torch.randn(2**20, generator=torch.Generator().manual_seed(3)).numpy()
    assert np.array_equal(TorchCpuNoise(3).normal((2**20,)).view(np.int32), expected.view(np.int32))


# On x86 with AVX2, torch 2.13.0, each line made by
#   python -c "import torch, hashlib; print(hashlib.sha256(torch.randn(SIZE,
#     generator=torch.Generator().manual_seed(SEED)).numpy().tobytes()).hexdigest())"
GOLDEN_SHA256 = {
    (0, 4096): "a25207107225c7f610397660248fee8c2aac455439e6b113fdf5cfea11eff662",
    (7, 4096): "df1f2643101fd18998697a13646d2397d4810f69f30336576c8e5b87043472de",
    (2**40 + 7, 1000): "4b1786693e247183aa6805eda7226207ca2fdca77c968b6aeec55afad3ae95ad",
    (42, 15): "8db9a5331024e1ef6641fb105e2cef40e44a0fc808368674795ee3b09096fe02",
}


@pytest.mark.parametrize(("seed", "size"), GOLDEN_SHA256)
def test_golden_streams(seed, size):
    values = TorchCpuNoise(seed).normal((size,)).astype("<f4")
    assert hashlib.sha256(values.tobytes()).hexdigest() == GOLDEN_SHA256[seed, size]


def test_golden_values():
    """torch.randn(4, 4, generator=torch.Generator().manual_seed(0))[0], torch 2.13.0, AVX2."""
    expected = np.float32([-1.1258398294448853, -1.1523602008819580, -0.25057858228683470])
    assert np.array_equal(TorchCpuNoise(0).normal((4, 4))[0, :3], expected)


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_moments_of_a_normal_distribution(source):
    """Each statistic within 5 of its own standard errors."""
    n = 2**18
    x = noise_source(source, 11).normal((n,)).astype(np.float64)
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs((x[1:] * x[:-1]).mean()) < 5 / math.sqrt(n)
    assert abs((x[8:] * x[:-8]).mean()) < 5 / math.sqrt(n)


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_streams_repeat_and_differ_by_seed(source):
    first, again = noise_source(source, 5), noise_source(source, 5)
    piece = first.normal((2, 4, 8, 8))
    assert np.array_equal(piece, again.normal((2, 4, 8, 8)))
    assert not np.array_equal(piece, first.normal((2, 4, 8, 8)))
    assert not np.array_equal(piece, noise_source(source, 6).normal((2, 4, 8, 8)))
    assert piece.dtype == np.float32 and piece.flags.c_contiguous and piece.flags.writeable


def test_the_global_numpy_generator_is_left_alone():
    np.random.seed(1)
    expected = np.random.rand(3)
    np.random.seed(1)
    TorchCpuNoise(9).normal((100,))
    assert np.array_equal(np.random.rand(3), expected)


def test_names():
    assert isinstance(noise_source(seed=1), TorchCpuNoise)
    assert isinstance(noise_source("torch-cpu", 1), TorchCpuNoise)
    assert isinstance(noise_source("torch-cuda", 1), TorchCudaNoise)
    assert isinstance(noise_source("torch-cuda", np.int64(1)), TorchCudaNoise)


def test_unknown_name_says_what_there_is():
    with pytest.raises(
        InvalidRequest, match=r"unknown noise source.*cuda:0.*torch-cpu or torch-cu"
    ):
        noise_source("cuda:0", 1)


@pytest.mark.parametrize("source", NOISE_SOURCES)
@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, "7", None])
def test_bad_seeds(source, seed):
    with pytest.raises(InvalidRequest, match=r"seed is .*expected.*an integer in \[-2\^63, 2\^64"):
        noise_source(source, seed)


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_negative_dimension(source):
    with pytest.raises(InvalidRequest, match="negative dimension"):
        noise_source(source, 1).normal((2, -1))


@pytest.mark.parametrize("sign", [1, -1])
def test_fused_multiply_add_where_float64_alone_would_round_twice(sign):
    """1 + ulp +- (ulp / 2)(1 - 2^-46): beside a float32 tie, closer than a float64 can tell."""
    one, ulp = np.float32(1), np.float32(2.0**-23)
    a = np.float32([1, -1]) * (ulp / 2) * (one + ulp)
    b = np.full(2, sign, dtype=np.float32) * (one - ulp)
    c = np.full(2, sign, dtype=np.float32) * (one + ulp)
    expected = sign * (one + ulp)
    assert (fused_multiply_add(a, b, c) == expected).all()
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != expected).all(), "the case must be one where rounding twice goes wrong"


@settings(max_examples=300, deadline=None)
@given(a=st.floats(-8, 8, width=32), b=st.floats(-8, 8, width=32), c=st.floats(-8, 8, width=32))
def test_fused_multiply_add_against_exact_rationals(a, b, c):
    from fractions import Fraction

    a, b, c = (np.float32(v) if abs(v) > 1e-9 else np.float32(0) for v in (a, b, c))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if 0 < abs(exact) < Fraction(2) ** -126:
        return
    result = fused_multiply_add(np.array([a]), np.array([b]), np.array([c]))[0]
    error = abs(Fraction(float(result)) - exact)
    for neighbour in (np.nextafter(result, np.float32(99)), np.nextafter(result, np.float32(-99))):
        assert error <= abs(Fraction(float(neighbour)) - exact)
