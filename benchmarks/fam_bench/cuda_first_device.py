"""Which GPU CUDA calls its first, as CUDA's driver says.

The driver's own library is asked, not its runtime: that needs no Python package, and makes no
context, which would take memory of the GPU.
"""

from __future__ import annotations

import ctypes
from typing import Any

from fam_runtime.errors import BackendError

LIBRARY = "libcuda.so.1"
_TEXT_BYTES = 32
_SUCCESS = 0


def first_device(library: Any = None) -> str | None:
    """The PCI bus id of the GPU that a process uses unless it chooses, ``"0000:65:00.0"``.

    That is the fastest one by default, or the first of ``CUDA_VISIBLE_DEVICES``.

    Args:
        library: CUDA's driver; None: the one that is installed.

    Returns:
        None: there is no such library to ask.

    Raises:
        BackendError: CUDA has no GPU for this process.
    """
    cuda = _loaded_library() if library is None else library
    if cuda is None:
        return None
    device, text = ctypes.c_int(), ctypes.create_string_buffer(_TEXT_BYTES)
    _check("cuInit", cuda.cuInit(ctypes.c_uint(0)))
    _check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(0)))
    status = cuda.cuDeviceGetPCIBusId(text, ctypes.c_int(_TEXT_BYTES), device)
    _check("cuDeviceGetPCIBusId", status)
    return text.value.decode("ascii", "replace")


def _loaded_library() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def _check(function: str, status: int) -> None:
    if status != _SUCCESS:
        raise BackendError(
            "CUDA has no GPU for this process",
            got=f"{function}: status {status}",
            expected="a GPU, and a driver that is not older than its libraries",
            fix="look at nvidia-smi, and at CUDA_VISIBLE_DEVICES",
        )
