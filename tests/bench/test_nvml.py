"""The GPU through a driver's library that is made up."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import pytest

from fam_bench.cuda_first_device import first_device
from fam_bench.nvml import DevicePeak, Gpu, GpuFacts, present_gpu
from fam_runtime.errors import BackendError

NOT_SUPPORTED = 3


class FakeNvml:
    """Two GPUs; every look at the memory takes the next of `used`, and then its last."""

    def __init__(self, used: list[int]) -> None:
        self.used, self.opened = used, list[object]()
        self.memory_status = 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        self.opened.append(index.value)
        return 0 if index.value < 2 else 2

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:
        self.opened.append(uuid.value)
        return 0 if uuid.value else 2

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus: Any, handle: Any) -> int:
        self.opened.append(bus.value)
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 8, 9
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        version._obj.value = 13010
        return 0

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:
        buffer.value = b"A GPU"
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:
        buffer.value = b"580.1"
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        if self.memory_status:
            return self.memory_status
        memory._obj.total = 24 << 30
        memory._obj.used = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        return 0


class FakeCuda:
    """A driver whose first GPU is not the first on the bus."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: Any) -> int:
        return self.status

    def cuDeviceGet(self, device: Any, ordinal: Any) -> int:
        device._obj.value = 40 + ordinal.value
        return 0

    def cuDeviceGetPCIBusId(self, text: Any, size: Any, device: Any) -> int:
        assert size.value == len(text) and device.value == 40
        text.value = b"0000:65:00.0"
        return 0


BUS = "0000:65:00.0"


def gpu_of(nvml: Any) -> Gpu:
    return Gpu(nvml, lambda: first_device(FakeCuda()))


def test_the_gpu_is_that_which_cuda_calls_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml([0])
    for visible in (None, "1,0", "GPU-77"):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found_by = f"CUDA's first, PCI bus {BUS}"
        expected = GpuFacts("A GPU", (8, 9), found_by, 24 << 30, "580.1", "13.1")
        assert gpu_of(nvml).facts == expected
    assert nvml.opened == [BUS.encode()] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5")
    assert gpu_of(nvml).facts.found_by == "MIG-5" and nvml.opened[-1] == b"MIG-5"
    with pytest.raises(BackendError, match="no GPU for this process.*cuInit: status 100"):
        first_device(FakeCuda(100))


def test_without_cuda_the_visible_one_is_meant_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml([0])
    said = [Gpu(nvml, lambda: None).facts.found_by]
    for visible in ("1,0", "GPU-77"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        said.append(Gpu(nvml, lambda: None).facts.found_by)
    assert nvml.opened == [0, 1, b"GPU-77"]
    assert "number 0 of the driver; CUDA may count in another order" in said[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BackendError, match="look at nvidia-smi, and at CUDA_VISIBLE_DEVICES"):
        Gpu(nvml, lambda: None)


def test_memory_that_the_driver_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml([100, 150, 700])
    with DevicePeak(gpu_of(nvml)) as peak:
        while len(nvml.used) > 1:
            pass
        nvml.memory_status = NOT_SUPPORTED
        while any(thread.name == "device-peak" for thread in threading.enumerate()):
            pass
    assert peak.growth_bytes is None, "what was not seen may have been more"
    assert gpu_of(nvml).facts.memory_bytes is None
    with DevicePeak(gpu_of(nvml)) as peak:
        pass
    assert peak.growth_bytes is None


@pytest.mark.parametrize("library", [object(), OSError("no such file")])
def test_a_driver_that_knows_nothing_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, library: object
) -> None:
    def load(name: str) -> object:
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    gpu, reason = present_gpu()
    assert gpu is None
    assert "no such function" in reason or "there is no NVIDIA driver" in reason


def test_the_peak_is_the_growth_of_what_is_used() -> None:
    nvml = FakeNvml([0, 100, 150, 700, 120])
    with DevicePeak(gpu_of(nvml)) as peak:
        while len(nvml.used) > 1:
            pass
    assert peak.growth_bytes == 600
    with DevicePeak(None) as nothing:
        pass
    assert nothing.growth_bytes is None


def test_the_structure_is_that_of_the_driver() -> None:
    from fam_bench.nvml import _Memory

    assert ctypes.sizeof(_Memory) == 24 and _Memory.used.offset == 16
