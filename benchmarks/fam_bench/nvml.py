"""The GPU as its driver describes it, through the library that comes with the driver (NVML).

Needs no Python package, and no CUDA context of this process, so that the memory read here is what
others took.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fam_bench.cuda_first_device import first_device
from fam_runtime.errors import BackendError

LIBRARY = "libnvidia-ml.so.1"
LOOK_EVERY_S = 0.002
_TEXT_BYTES = 96
_SUCCESS = 0


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``."""

    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


@dataclass(frozen=True)
class GpuFacts:
    """What it is.

    Attributes:
        name: as NVIDIA calls it.
        capability: compute capability, ``(8, 9)``.
        found_by: how it was told from others.
        memory_bytes: all of it; None: the driver does not say, as where the GPU has none of its
            own.
        driver: version.
        cuda: newest version that the driver supports.
    """

    name: str
    capability: tuple[int, int]
    found_by: str
    memory_bytes: int | None
    driver: str
    cuda: str


class Gpu:
    """The GPU that CUDA calls its first, or the one that is like it if CUDA cannot be asked.

    Args:
        library: NVML; None: the driver's.
        ask_cuda: for the PCI bus id of its first GPU; None: it cannot be asked.

    Attributes:
        facts: what it is.

    Raises:
        BackendError: there is no driver, or no GPU that this process may see.
    """

    def __init__(
        self, library: Any = None, ask_cuda: Callable[[], str | None] = first_device
    ) -> None:
        self._nvml = _loaded_library() if library is None else library
        self._handle = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self.facts = self._described(self._find(ask_cuda))

    def _find(self, ask_cuda: Callable[[], str | None]) -> str:
        """Take hold of the GPU; returns by what it was found."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        handle = ctypes.byref(self._handle)
        # The bus id of an instance is that of the GPU that it is a part of.
        if not visible.startswith("MIG-") and (bus := ask_cuda()) is not None:
            name = ctypes.c_char_p(bus.encode())
            self._call("nvmlDeviceGetHandleByPciBusId_v2", name, handle)
            return f"CUDA's first, PCI bus {bus}"
        if visible.isdecimal():
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(visible)), handle)
            return f"number {visible} of the driver; CUDA may count in another order"
        # "GPU-..." or "MIG-..."; empty hides every GPU, and is refused as no such name
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(visible.encode()), handle)
        return visible

    def _described(self, found_by: str) -> GpuFacts:
        major, minor, cuda = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._call(
            "nvmlDeviceGetCudaComputeCapability",
            self._handle,
            ctypes.byref(major),
            ctypes.byref(minor),
        )
        self._call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(cuda))
        return GpuFacts(
            self._text("nvmlDeviceGetName", self._handle),
            (major.value, minor.value),
            found_by,
            self._memory("total"),
            self._text("nvmlSystemGetDriverVersion"),
            f"{cuda.value // 1000}.{cuda.value % 1000 // 10}",
        )

    @property
    def used_bytes(self) -> int | None:
        """Memory that all processes, and the driver, take now; None: the driver does not say."""
        return self._memory("used")

    def _memory(self, field: str) -> int | None:
        memory = _Memory()
        try:
            self._call("nvmlDeviceGetMemoryInfo", self._handle, ctypes.byref(memory))
        except BackendError:  # a GPU that shares the host's memory, or a part of one
            return None
        return int(getattr(memory, field))

    def _text(self, function: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call(function, *arguments, buffer, ctypes.c_uint(_TEXT_BYTES))
        return buffer.value.decode("utf-8", "replace")

    def _call(self, function: str, *arguments: Any) -> None:
        known = getattr(self._nvml, function, None)
        status = "no such function" if known is None else int(known(*arguments))
        if status != _SUCCESS:
            raise BackendError(
                "the GPU's driver does not answer",
                got=f"{function}: status {status}",
                expected="a GPU that this process may see",
                fix="look at nvidia-smi, and at CUDA_VISIBLE_DEVICES",
            )


def _loaded_library() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(
            "there is no NVIDIA driver",
            got=str(error),
            expected=LIBRARY,
            fix="run this on a machine with an NVIDIA GPU",
        ) from error


def present_gpu() -> tuple[Gpu | None, str]:
    """The GPU, or in one sentence why there is none."""
    try:
        return Gpu(), ""
    except BackendError as error:
        return None, f"{error.what} ({error.got})"


class DevicePeak:
    """The largest growth of the GPU's used memory within a ``with`` block.

    Args:
        gpu: None: nothing is read.
    """

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._before: int | None = None
        self._largest: int | None = None

    @property
    def growth_bytes(self) -> int | None:
        """Peak in the block, less what was used when it was entered; None: it was not told."""
        if self._before is None or self._largest is None:
            return None
        return max(self._largest - self._before, 0)

    def __enter__(self) -> Self:
        if self._gpu is not None:
            self._before = self._largest = self._gpu.used_bytes
        if self._gpu is not None and self._before is not None:
            self._thread = threading.Thread(
                target=self._watch, args=(self._gpu,), name="device-peak", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, gpu: Gpu) -> None:
        while True:
            used = gpu.used_bytes
            if used is None or self._largest is None:
                self._largest = None  # what was not seen may have been more
                return
            self._largest = max(self._largest, used)
            if self._stop.wait(LOOK_EVERY_S):
                return
