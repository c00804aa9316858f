"""A stand-in for ``cuda.bindings.runtime`` that holds every call to the real signature."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np


class StubCuda:
    """Stands in for ``cuda.bindings.runtime``: calls are checked against the real signatures.

    Memory is the host's, so that copies can be followed.
    """

    def __init__(self, real: Any, *, fail: Mapping[str, str] | None = None) -> None:
        self._real, self.fail = real, dict(fail or {})
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.alive: dict[tuple[str, int], Any] = {}
        self._handles = iter(range(1, 1 << 40))

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not name.startswith("cuda") or not callable(real) or isinstance(real, type):
            return real  # an enumeration, or a constant
        return lambda *arguments: self._call(name, real, arguments)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]

    def _call(self, name: str, real: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        inspect.signature(real).bind(*arguments)
        self.calls.append((name, arguments))
        if name in ("cudaGetErrorName", "cudaGetErrorString"):
            return real(*arguments)
        if name in self.fail:
            return getattr(self._real.cudaError_t, self.fail[name]), None
        answer = getattr(self, f"_{name}", lambda *_: ())(*arguments)
        return (self._real.cudaError_t.cudaSuccess, *answer)

    def _new(self, kind: str, content: Any = None) -> tuple[int]:
        handle = next(self._handles)
        self.alive[kind, handle] = content
        return (handle,)

    def _memory(self, kind: str, nbytes: int) -> tuple[int]:
        storage = np.zeros(nbytes, np.uint8)
        self.alive[kind, storage.ctypes.data] = storage
        return (storage.ctypes.data,)

    def _cudaGetDeviceCount(self) -> tuple[int]:
        return (1,)

    def _cudaGetDevice(self) -> tuple[int]:
        return (0,)

    def _cudaGetDeviceProperties(self, device: int) -> tuple[Any]:
        return (SimpleNamespace(name=b"NVIDIA Stub\0\0"),)

    def _cudaDeviceGetAttribute(self, attribute: Any, device: int) -> tuple[int]:
        names = self._real.cudaDeviceAttr
        values = {
            names.cudaDevAttrComputeCapabilityMajor: 8,
            names.cudaDevAttrComputeCapabilityMinor: 9,
        }
        return (values[attribute],)

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[int]:
        return self._new("stream")

    def _cudaStreamDestroy(self, stream: int) -> tuple[()]:
        del self.alive["stream", stream]
        return ()

    def _cudaMalloc(self, nbytes: int) -> tuple[int]:
        return self._memory("memory", nbytes)

    def _cudaFree(self, address: int) -> tuple[()]:
        del self.alive["memory", address]
        return ()

    def _cudaMallocHost(self, nbytes: int) -> tuple[int]:
        return self._memory("pinned", nbytes)

    def _cudaFreeHost(self, address: int) -> tuple[()]:
        del self.alive["pinned", address]
        return ()

    def _cudaMemcpyAsync(self, to: int, source: int, nbytes: int, *_: Any) -> tuple[()]:
        ctypes.memmove(to, source, nbytes)
        return ()

    def _cudaMemsetAsync(self, address: int, value: int, nbytes: int, stream: int) -> tuple[()]:
        ctypes.memset(address, value, nbytes)
        return ()

    def _cudaEventCreate(self) -> tuple[int]:
        return self._new("event")

    def _cudaEventDestroy(self, event: int) -> tuple[()]:
        del self.alive["event", event]
        return ()

    def _cudaEventElapsedTime(self, start: int, end: int) -> tuple[float]:
        return (1.5,)

    def _cudaStreamEndCapture(self, stream: int) -> tuple[int]:
        return self._new("graph")

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int]:
        return self._new("exec")

    def _cudaGraphDestroy(self, graph: int) -> tuple[()]:
        del self.alive["graph", graph]
        return ()

    def _cudaGraphExecDestroy(self, graph: int) -> tuple[()]:
        del self.alive["exec", graph]
        return ()

    def _cudaMemGetInfo(self) -> tuple[int, int]:
        return 3 << 20, 8 << 30
