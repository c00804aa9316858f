"""What this machine reaches at best: operations per second, and bytes per second of its memory.

A ceiling is the best that was seen, over several sizes and every library that is here, at work that
does nothing else. So a step can come near it, and hardly get above it; and where another program
took part of the machine meanwhile, the ceiling is too low, never too high.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from fam_bench.latency.contestants import Device
from fam_bench.latency.floor.peak_work import (
    Dtype,
    Run,
    Setting,
    Work,
    numpy_products,
    numpy_streams,
    onnxruntime_products,
    torch_products,
    torch_streams,
)
from fam_runtime.errors import BackendError

Timer = Callable[[Run], float]
"""Seconds that one call takes."""

PIECE_SECONDS = 0.2
"""For which a piece of work is repeated after it has warmed up; all take about 10 s."""
MIN_REPEATS = 3
MAX_CALL_SECONDS = 0.5
"""A piece that is expected to take longer is left out: its library is slow, or the machine is, and
then a smaller one shows its peak as well."""


@dataclass(frozen=True)
class Ceilings:
    """Measured peaks.

    Attributes:
        operations_per_second: floating-point; a multiply-add is two.
        bytes_per_second: read and written together.
        how: which library reached them at what.
    """

    operations_per_second: float
    bytes_per_second: float
    how: str


def measure_ceilings(
    device: Device, dtype: Dtype, threads: int | None = None, *, tf32: bool = False
) -> Ceilings:
    """The peaks of this machine.

    Args:
        device: the CPU (ONNX Runtime, PyTorch and NumPy, whichever are here) or PyTorch's GPU.
        dtype: of the products.
        threads: on the CPU; None is one per core.
        tf32: let products of float32 on a GPU be rounded to TF32, as most of its libraries do.

    Raises:
        BackendError: no library here can do the work.
    """
    cores = len(os.sched_getaffinity(0))
    setting = Setting(device, dtype, threads or cores)
    if device == "cuda":
        with _torch_gpu(tf32):
            return _best([torch_products(setting)], [torch_streams(setting)], _events, setting)
    products, streams = [onnxruntime_products(setting)], [numpy_streams(setting)]
    if find_spec("torch") is not None:
        products.append(torch_products(setting))
        streams.append(torch_streams(setting))
    if setting.threads == cores and dtype == "fp32":  # NumPy is not told how many
        products.append(numpy_products(setting))
    with _torch_threads(setting.threads):
        return _best(products, streams, _stopwatch, setting)


def _best(
    products: Iterable[Iterable[Work]],
    streams: Iterable[Iterable[Work]],
    timer: Timer,
    setting: Setting,
) -> Ceilings:
    operations, product = best_rate(products, timer)
    moved, stream = best_rate(streams, timer)
    where = f"{setting.threads} threads" if setting.device == "cpu" else "the GPU"
    return Ceilings(operations, moved, f"{product}; {stream}; {setting.dtype}, {where}")


def best_rate(libraries: Iterable[Iterable[Work]], timer: Timer) -> tuple[float, str]:
    """The highest amount per second, and whose it is.

    Args:
        libraries: the work of each, small pieces first; what a library refuses is left out.
        timer: times one call.

    Raises:
        BackendError: nothing could be done.
    """
    rates: dict[str, float] = {}
    refused = []
    for works in libraries:
        rate = None
        for work in works:
            if rate is not None and work.amount > MAX_CALL_SECONDS * rate:
                continue
            try:
                rate = work.amount / least_seconds(work.prepare(), timer)
            except Exception as error:  # each library has its own for a type it cannot multiply
                refused.append(f"{work.title}: {type(error).__name__}")
            else:
                rates[work.title] = rate
    if not rates:
        raise BackendError(
            "the peak of this machine cannot be measured",
            got="; ".join(refused) or "no library",
            expected="onnxruntime or torch, and a type that it can multiply",
            fix="pip install fam-diffusion[bench], or measure in fp32",
        )
    title = max(rates, key=rates.__getitem__)
    return rates[title], title


def least_seconds(run: Run, timer: Timer) -> float:
    """The fastest of several calls, after one that warms up."""
    timer(run)
    end = time.perf_counter() + PIECE_SECONDS
    seconds = [timer(run) for _ in range(MIN_REPEATS)]
    while time.perf_counter() < end:
        seconds.append(timer(run))
    return min(seconds)


def _stopwatch(run: Run) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _events(run: Run) -> float:
    """Seconds on the GPU between two events."""
    import torch

    event: Any = torch.cuda.Event  # untyped
    begun, ended = event(enable_timing=True), event(enable_timing=True)
    begun.record()
    run()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch, if it is here, use so many for a while."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _torch_gpu(tf32: bool) -> Iterator[None]:
    """PyTorch on its GPU, with convolutions that try all algorithms."""
    if find_spec("torch") is None:
        raise _no_gpu("no torch")
    import torch

    if not torch.cuda.is_available():
        raise _no_gpu(f"torch {torch.__version__} without a GPU")
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with torch.backends.flags(fp32_precision="tf32" if tf32 else "ieee"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
        torch.cuda.empty_cache()


def _no_gpu(got: str) -> BackendError:
    return BackendError(
        "the peak of a GPU is measured with PyTorch",
        got=got,
        expected="PyTorch with CUDA",
        fix="install it as its site says, or measure the CPU",
    )
