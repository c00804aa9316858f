"""Work at which a machine shows what it can do: products, and arrays that pass through memory.

Products are dense matrix products at several sizes and a 3x3 convolution. What a stream moves is
counted as STREAM does, read and written, without what a cache fetches before it is overwritten; a
step mostly reads weights, so that reading alone takes part too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fam_bench.latency.contestants import Device
from fam_runtime.free_memory import free_memory_bytes

Dtype = Literal["fp32", "fp16", "bf16"]
Run = Callable[[], object]

MATRIX_SIZES: dict[Device, tuple[int, ...]] = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
CHANNELS, LATENT = 320, 64
"""Of the convolution: the first stage of Stable Diffusion's UNet at its native size."""
CONVOLUTION_BATCH: dict[Device, int] = {"cpu": 2, "cuda": 16}
ONNX_OPSET, ONNX_IR_VERSION = 22, 10
"""The first opset with a convolution of bf16, and what goes with it."""

CACHES_PER_ARRAY = 4
MIN_ARRAY_BYTES, MAX_ARRAY_BYTES = 256 << 20, 2 << 30
"""Of an array that passes through memory: much larger than the last-level caches."""
GPU_ARRAY_BYTES = 1 << 30
MEMORY_PER_ARRAY = 8
"""An array takes at most this part of the free memory."""
_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Setting:
    """On what is measured.

    Attributes:
        device: the CPU or PyTorch's GPU.
        dtype: of the products.
        threads: on the CPU.
    """

    device: Device
    dtype: Dtype
    threads: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of what is convolved."""
        return (CONVOLUTION_BATCH[self.device], CHANNELS, LATENT, LATENT)

    @property
    def convolution_operations(self) -> int:
        """``2 · B·C·h·w · C·9``."""
        return 2 * int(np.prod(self.image_shape)) * CHANNELS * 9


@dataclass(frozen=True)
class Work:
    """A piece of work.

    Attributes:
        title: library and work.
        amount: operations, or bytes.
        prepare: makes its arrays, and gives the call.
    """

    title: str
    amount: int
    prepare: Callable[[], Run]


def onnxruntime_products(setting: Setting) -> Iterator[Work]:
    """In ONNX Runtime on the CPU."""
    for n in MATRIX_SIZES[setting.device]:
        call = partial(_session_call, "MatMul", (n, n), (n, n), setting)
        yield Work(f"ONNX Runtime, MatMul of {n} x {n}", 2 * n**3, call)
    kernel = (CHANNELS, CHANNELS, 3, 3)
    call = partial(_session_call, "Conv", setting.image_shape, kernel, setting, pads=[1, 1, 1, 1])
    title = f"ONNX Runtime, 3x3 Conv of {CHANNELS} channels"
    yield Work(title, setting.convolution_operations, call)


def _session_call(
    op_type: str,
    shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    setting: Setting,
    **attributes: Any,
) -> Run:
    """A session with one node, whose weight is a constant: it is laid out once, as a step's are."""
    import onnx
    import onnxruntime as ort

    names = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}
    element_type = onnx.TensorProto.DataType.Value(names[setting.dtype])
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element_type)
    weight = onnx.numpy_helper.from_array(_random(weight_shape).astype(dtype), "weight")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, ["x", "weight"], ["y"], **attributes)],
        "peak",
        [value("x", element_type, shape)],
        [value("y", element_type, None)],
        [weight],
    )
    opsets = [onnx.helper.make_opsetid("", ONNX_OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ONNX_IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.log_severity_level = 4  # a type without a kernel is an error that the caller expects
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"x": _random(shape).astype(dtype)}
    return lambda: session.run(None, feeds)


def torch_products(setting: Setting) -> Iterator[Work]:
    """In PyTorch."""
    for n in MATRIX_SIZES[setting.device]:
        call = partial(_torch_matrix_product, n, setting)
        yield Work(f"PyTorch, product of {n} x {n}", 2 * n**3, call)
    for channels_last in (False, True):
        layout = "last" if channels_last else "first"
        title = f"PyTorch, 3x3 convolution of {CHANNELS} channels, channels {layout}"
        call = partial(_torch_convolution, setting, channels_last)
        yield Work(title, setting.convolution_operations, call)


def _torch_matrix_product(size: int, setting: Setting) -> Run:
    import torch

    a, b = _torch_random((size, size), setting), _torch_random((size, size), setting)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _torch_convolution(setting: Setting, channels_last: bool) -> Run:
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = _torch_random(setting.image_shape, setting).to(memory_format=layout)
    kernel = _torch_random((CHANNELS, CHANNELS, 3, 3), setting).to(memory_format=layout)

    def run() -> object:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(image, kernel, padding=1)

    return run


def _torch_random(shape: tuple[int, ...], setting: Setting) -> Any:
    import torch

    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return torch.from_numpy(_random(shape)).to(setting.device, dtypes[setting.dtype])


def numpy_products(setting: Setting) -> Iterator[Work]:
    """In NumPy, with as many threads as its library takes."""
    for n in MATRIX_SIZES[setting.device]:
        yield Work(f"NumPy, product of {n} x {n}", 2 * n**3, partial(_numpy_product, n))


def _numpy_product(size: int) -> Run:
    a, b = _random((size, size)), _random((size, size))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def _random(shape: tuple[int, ...]) -> Any:
    """float32 in [0, 1): numbers that overflow or vanish in no precision."""
    return np.random.default_rng(0).random(shape, np.float32)


def numpy_streams(setting: Setting) -> Iterator[Work]:
    """In NumPy, an array in as many parts as there are threads."""
    size = array_bytes()
    title = f"of {size >> 20} MiB"
    yield Work(f"NumPy, copy {title}", 2 * size, partial(_numpy_copy, size, setting.threads))
    yield Work(f"NumPy, read {title}", size, partial(_numpy_read, size, setting.threads))


def _numpy_copy(size: int, threads: int) -> Run:
    source = _parts(size, threads)
    target, pool = _parts(size, threads), ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, target, source))


def _numpy_read(size: int, threads: int) -> Run:
    source, pool = _parts(size, threads), ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, source))


def _parts(size: int, threads: int) -> list[Any]:
    """`size` bytes in arrays of equal length; the last one takes what is left over."""
    return np.array_split(np.ones(size // 4, np.float32), threads)


def torch_streams(setting: Setting) -> Iterator[Work]:
    """In PyTorch: copy, triad (``a = b + 3·c``) and read."""
    import torch

    size = array_bytes() if setting.device == "cpu" else _gpu_array_bytes()

    def arrays(count: int) -> list[Any]:
        return [torch.ones(size // 4, device=setting.device) for _ in range(count)]

    def copy() -> Run:
        target, source = arrays(2)
        return lambda: target.copy_(source)

    def triad() -> Run:
        target, first, second = arrays(3)
        return lambda: torch.add(first, second, alpha=3.0, out=target)

    def read() -> Run:
        (source,) = arrays(1)
        return lambda: torch.sum(source)

    for name, passes, prepare in (("copy", 2, copy), ("triad", 3, triad), ("read", 1, read)):
        yield Work(f"PyTorch, {name} of {size >> 20} MiB", passes * size, prepare)


def array_bytes() -> int:
    """Of an array on the CPU: several times all last-level caches, as far as memory allows."""
    wanted = max(MIN_ARRAY_BYTES, CACHES_PER_ARRAY * last_level_cache_bytes())
    free = free_memory_bytes()
    allowed = MAX_ARRAY_BYTES if free is None else min(MAX_ARRAY_BYTES, free // MEMORY_PER_ARRAY)
    return min(wanted, allowed) // _PAGE_BYTES * _PAGE_BYTES


def _gpu_array_bytes() -> int:
    import torch

    free, _ = torch.cuda.mem_get_info()
    return min(GPU_ARRAY_BYTES, free // MEMORY_PER_ARRAY) // _PAGE_BYTES * _PAGE_BYTES


def last_level_cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int:
    """All caches of the highest level together; 0 where the system does not say."""
    found: dict[tuple[int, str], int] = {}
    for index in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = (
                (index / name).read_text(encoding="ascii").strip()
                for name in ("level", "shared_cpu_list", "size")
            )
        except OSError:
            continue
        found[int(level), shared] = int(size.removesuffix("K")) * 1024
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest)
