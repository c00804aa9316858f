"""The two libraries, and everything in which they differ.

================================  =========================  ==================================
                                  TensorRT                   TensorRT for RTX
================================  =========================  ==================================
module                            ``tensorrt``               ``tensorrt_rtx``, or its bindings
engine is for                     the GPU it is built on     the compute capability that is named
needs a GPU to build              yes, it times kernels      no; without, no weight-stripped plans
kernels are chosen                when it is built           when it first runs
what a second time saves          the timing cache           the runtime cache
captured in a CUDA graph          yes                        if built with user allocation
================================  =========================  ==================================

A timing cache given to TensorRT for RTX changes nothing in the engine and asks for a GPU, so it
gets none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from fam_runtime.errors import BackendError

LibraryName = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[LibraryName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    # Without NVIDIA's meta-package, the wheel with the bindings can be imported by itself.
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_TITLES: dict[LibraryName, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
_INSTALL: dict[LibraryName, str] = {
    "tensorrt": "install NVIDIA TensorRT 10.2 or newer for this machine's CUDA as NVIDIA's guide "
    "says (its builder's libraries do not come from PyPI), and "
    'pip install "fam-diffusion[tensorrt]"; or use --backend tensorrt-rtx on a GeForce or RTX GPU',
    "tensorrt-rtx": 'pip install "fam-diffusion[tensorrt-rtx]"',
}
OLDEST: dict[LibraryName, tuple[int, int]] = {"tensorrt": (10, 2), "tensorrt-rtx": (1, 4)}
"""The first that give contexts memory by address and size, and the oldest RTX that pip offers."""


@dataclass(frozen=True)
class TensorrtLibrary:
    """One of the libraries, imported.

    Attributes:
        name: what `--backend` calls it.
        module: the Python module.
        version: as the module gives it.
    """

    name: LibraryName
    module: Any
    version: str

    @property
    def title(self) -> str:
        """As NVIDIA calls it."""
        return _TITLES[self.name]

    @property
    def builds_ahead_of_time(self) -> bool:
        """Whether it builds for a GPU that is not there."""
        return self.name == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """Whether building times kernels, so that keeping the times is worth it."""
        return not self.builds_ahead_of_time

    @property
    def architectures(self) -> tuple[str, ...]:
        """``("sm75", …)`` that it can be told to build for; empty: the GPU that is there."""
        capabilities = getattr(self.module, "ComputeCapability", None)
        if not self.builds_ahead_of_time or capabilities is None:
            return ()
        return tuple(name.lower() for name in capabilities.__members__ if name.startswith("SM"))


def import_library(name: LibraryName) -> TensorrtLibrary:
    """Import the library called `name`.

    Raises:
        BackendError: it is not installed, not for this machine, or too old.
    """
    reasons = []
    for candidate in _MODULES[name]:
        try:
            module = import_module(candidate)
        except (ImportError, OSError, RuntimeError) as error:  # a missing .so raises either
            reasons.append(f"{candidate}: {error}")
            continue
        if not hasattr(module, "Builder"):
            reasons.append(f"{candidate}: no Builder in it (a lean or dispatch runtime)")
            continue
        return _checked(TensorrtLibrary(name, module, str(module.__version__)))
    raise BackendError(
        f"{_TITLES[name]} cannot be imported",
        got="; ".join(reasons),
        expected=f"Python {sys.version_info.major}.{sys.version_info.minor} to import it",
        fix=_INSTALL[name],
    )


def _checked(library: TensorrtLibrary) -> TensorrtLibrary:
    oldest = OLDEST[library.name]
    numbers = [int(part) for part in library.version.split(".")[:2] if part.isdecimal()]
    if len(numbers) == 2 and tuple(numbers) < oldest:
        raise BackendError(
            f"this {library.title} is too old",
            got=library.version,
            expected=f"version {oldest[0]}.{oldest[1]} or newer",
            fix=_INSTALL[library.name],
        )
    return library
