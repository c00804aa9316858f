"""The C++ runtime's noise: against torch, and against the Python runtime's, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fam_runtime.errors import InvalidRequest
from fam_runtime.noise import NOISE_SOURCES, TorchCpuNoise, TorchCudaNoise, noise_source, torch_cuda
from fam_runtime.noise._box_muller_avx2 import normal_from_uniform_blocks
from fam_runtime.noise._fused import fused_multiply_add
from fam_runtime.noise._mersenne import MersenneTwister
from tests.cpp.probe import CppError, Probe
from tests.runtime.test_noise_cuda import KNOWN_ANSWERS

Float32Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

SEEDS = (0, 1, 7, 42, 1234567890, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63, 2**64 - 1, -1, -7)
SHAPES: tuple[Shape, ...] = (
    *((n,) for n in range(1, 16)),
    *((16,), (17,), (31,), (32,), (33,), (47,), (623,), (624,), (625,), (1000,), (1248,)),
    *((0,), (16, 0), (2, 4, 16, 16), (1, 4, 64, 64), (3, 5, 7), ()),
)
GPUS = ((1, 256), (4, 1024), (82, 1536), (132, 2048))


class Streams:
    """The C++ runtime's streams, read through files of `folder`."""

    def __init__(self, probe: Probe, folder: Path) -> None:
        self._probe = probe
        self._path = folder / "values"

    def __call__(self, seed: int, shapes: Sequence[Shape], **source: object) -> Float32Array:
        """The pieces that calls of `shapes` cut, one after the other."""
        self._probe.ask(
            "noise.normal", seed=seed % 2**64, shapes=shapes, path=str(self._path), **source
        )
        return np.fromfile(self._path, dtype=np.float32)

    def rewritten(self, command: str, values: Float32Array, **arguments: object) -> Float32Array:
        """What `command` makes of a file of `values`."""
        values.tofile(self._path)
        self._probe.ask(command, path=str(self._path), **arguments)
        return np.fromfile(self._path, dtype=np.float32)


@pytest.fixture
def streams(probe: Probe, tmp_path: Path) -> Streams:
    return Streams(probe, tmp_path)


def torch_module() -> Any:
    """torch, if this machine runs its AVX2 kernel; a reason to skip otherwise."""
    torch = pytest.importorskip("torch")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("AVX2", "AVX512"):
        pytest.skip(f"torch runs its {capability} kernel here, which gives other last bits")
    return torch


def pieces(source: Any, shapes: Sequence[Shape]) -> Float32Array:
    """The same calls of a noise source of Python."""
    return np.concatenate([source.normal(shape).reshape(-1) for shape in shapes])


def box_muller_by_float64(
    x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32]
) -> tuple[Float32Array, Float32Array]:
    """`torch_cuda._box_muller` with log, sin and cos of float64, rounded once to float32."""
    u, v = (
        torch_cuda._scaled_to_open_interval(words, scale).astype(np.float64)
        for words, scale in (
            (x, torch_cuda._TWO_POW_MINUS_32),
            (y, torch_cuda._TWO_PI_POW_MINUS_32),
        )
    )
    log, sine, cosine = (f.astype(np.float32) for f in (np.log(u), np.sin(v), np.cos(v)))
    radius: Float32Array = np.sqrt(np.float32(-2) * log)
    return radius * sine, radius * cosine


@pytest.mark.parametrize("seed", SEEDS)
def test_torch_cpu_equals_torch_bit_for_bit(streams: Streams, seed: int) -> None:
    torch = torch_module()
    order = [SHAPES[i] for i in np.random.RandomState(seed % 2**32).permutation(len(SHAPES))]
    for shapes in (*([shape] for shape in SHAPES), order * 2):
        generator = torch.Generator().manual_seed(seed)
        expected = np.concatenate(
            [torch.randn(shape, generator=generator).numpy().reshape(-1) for shape in shapes]
        )
        assert streams(seed, shapes, source="torch-cpu").tobytes() == expected.tobytes(), shapes


def test_torch_cpu_of_random_seeds_and_sizes_equals_torch(streams: Streams) -> None:
    torch = torch_module()
    generator = random.Random(20260101)
    for _ in range(300):
        seed = generator.randrange(-(2**63), 2**64)
        limit = generator.choice((15, 40, 700, 5000))
        shapes = [(generator.randint(0, limit),) for _ in range(generator.randint(1, 12))]
        torch_generator = torch.Generator().manual_seed(seed)
        expected = np.concatenate(
            [torch.randn(shape, generator=torch_generator).numpy() for shape in shapes]
        )
        actual = streams(seed, shapes, source="torch-cpu")
        assert actual.tobytes() == expected.tobytes(), (seed, shapes)


def test_torch_cpu_equals_the_python_runtime(streams: Streams) -> None:
    for seed in SEEDS:
        shapes = [(2, 4, 32, 32), (7,), (1, 4, 33, 31), (), (18,)]
        expected = pieces(TorchCpuNoise(seed), shapes)
        assert streams(seed, shapes, source="torch-cpu").tobytes() == expected.tobytes()


def test_the_transform_of_every_uniform(probe: Probe, streams: Streams) -> None:
    """All 2^24 uniforms as radius and as angle, which no rounding mistake survives."""
    ways = [way for way in ("vectors", "portable") if probe.ask("noise.has_box_muller", way=way)]
    assert "portable" in ways
    every = (np.arange(2**24, dtype=np.float32) * np.float32(2.0**-24)).reshape(-1, 8)
    for part in range(8):
        halves = every[part::8]
        blocks = np.concatenate([halves, halves[::-1]], axis=1).reshape(-1)
        expected = normal_from_uniform_blocks(blocks)
        for way in ways:
            actual = streams.rewritten("noise.box_muller", blocks, way=way)
            assert actual.tobytes() == expected.tobytes(), way


def test_fused_multiply_add_beside_ties(streams: Streams) -> None:
    """Exact products beside a tie of float32, where float64 alone would round twice."""
    generator = np.random.default_rng(5)
    triples = generator.uniform(-8, 8, (200_000, 3)).astype(np.float32)
    one, ulp = np.float32(1), np.float32(2.0**-23)
    count = 1000
    k = generator.integers(1, 300, count).astype(np.float32)
    near = np.empty((count, 3), dtype=np.float32)
    near[:, 0] = (ulp / 2) * (one + k * ulp)
    near[:, 1] = generator.choice([-1, 1], count) * (one - k * ulp)
    near[:, 2] = generator.choice([-1, 1], count) * (one + ulp)
    triples = np.concatenate([triples, near])
    expected = fused_multiply_add(*triples.T)
    a, b, c = triples.astype(np.float64).T
    assert ((a * b + c).astype(np.float32) != expected).sum() > count / 2
    both = streams.rewritten("noise.fused_multiply_add", triples.reshape(-1)).reshape(-1, 2)
    assert both[:, 0].tobytes() == expected.tobytes()
    assert both[:, 1].tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_words_of_the_mersenne_twister(probe: Probe, seed: int) -> None:
    expected = MersenneTwister(seed).words(3000).tolist()
    assert probe.ask("noise.words", seed=seed % 2**64, count=3000) == expected


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_known_answers(probe: Probe, counter: Shape, key: Shape, output: Shape) -> None:
    assert tuple(probe.ask("noise.philox", counter=counter, key=key)) == output


CUDA_SHAPES: list[Shape] = [(4,), (), (255,), (256,), (257,), (0, 3), (2, 4, 32, 32), (1023,)]
CUDA_SHAPES += [(4 * 256 + 1,), (5000,), (1, 4, 96, 96), (3,)]


@pytest.mark.parametrize("gpu", GPUS)
def test_torch_cuda_equals_the_python_runtime(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, gpu: tuple[int, int]
) -> None:
    """Byte for byte with the functions of float64, to the last bits with NumPy's of float32."""
    shapes = CUDA_SHAPES
    for seed in SEEDS:
        actual = streams(seed, shapes, source="torch-cuda", gpu=gpu)
        numpy = pieces(TorchCudaNoise(seed, *gpu), shapes)
        np.testing.assert_allclose(actual, numpy, rtol=1e-6, atol=1e-9)
        with monkeypatch.context() as patch:
            patch.setattr(torch_cuda, "_box_muller", box_muller_by_float64)
            expected = pieces(TorchCudaNoise(seed, *gpu), shapes)
        assert actual.tobytes() == expected.tobytes(), seed


def test_torch_cuda_of_a_large_latent(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the size where the number of multiprocessors decides: two rounds of every thread."""
    monkeypatch.setattr(torch_cuda, "_box_muller", box_muller_by_float64)
    shapes: list[Shape] = [(1, 4, 520, 530), (8,)]
    actual = streams(3, shapes, source="torch-cuda")
    assert actual.tobytes() == pieces(TorchCudaNoise(3), shapes).tobytes()


def refusal(call: Any) -> str:
    """The text of the InvalidRequest that `call` raises."""
    with pytest.raises(InvalidRequest) as raised:
        call()
    return str(raised.value)


def assert_refused_alike(call: Any, streams: Streams, shape: Shape, **source: object) -> None:
    expected = refusal(call)
    with pytest.raises(CppError) as raised:
        streams(1, [shape], **source)
    assert (raised.value.kind, raised.value.text) == ("InvalidRequest", expected)


@pytest.mark.parametrize("name", ["cuda:0", "", "Torch-CPU", "it's\n"])
def test_unknown_names_are_refused_alike(streams: Streams, name: str) -> None:
    assert_refused_alike(lambda: noise_source(name, 1), streams, (1,), source=name)


@pytest.mark.parametrize("source", NOISE_SOURCES)
@pytest.mark.parametrize("shape", [(-1,), (2, -1), (0, -3), (2, 3, -(2**63))])
def test_negative_dimensions_are_refused_alike(streams: Streams, source: str, shape: Shape) -> None:
    call = lambda: noise_source(source, 1).normal(shape)  # noqa: E731
    assert_refused_alike(call, streams, shape, source=source)


@pytest.mark.parametrize("gpu", [(0, 2048), (108, 255), (-1, 1024)])
def test_an_impossible_gpu_is_refused_alike(streams: Streams, gpu: tuple[int, int]) -> None:
    call = lambda: TorchCudaNoise(1, *gpu)  # noqa: E731
    assert_refused_alike(call, streams, (1,), source="torch-cuda", gpu=gpu)


def test_too_many_values_are_refused_alike(streams: Streams) -> None:
    call = lambda: TorchCudaNoise(1).normal((2**15, 2**15))  # noqa: E731
    assert_refused_alike(call, streams, (2**15, 2**15), source="torch-cuda")
