"""Which GPU an engine is for: ``sm86`` is compute capability 8.6."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.errors import BackendError, InvalidRequest

_NAME = re.compile(r"sm[_ ]?(\d{2,3})|(\d{1,2})\.(\d)")


def architecture_from_text(text: str) -> str:
    """``sm89`` from ``sm89``, ``SM_89`` or ``8.9``.

    Raises:
        InvalidRequest: it is none of these.
    """
    match = _NAME.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidRequest(
            "unknown GPU architecture",
            got=text,
            expected="a compute capability such as sm89 or 8.9",
            fix="nvidia-smi --query-gpu=compute_cap --format=csv prints the one of a GPU",
        )
    return f"sm{match[1] or match[2] + match[3]}"


def architecture_from_capability(capability: tuple[int, int]) -> str:
    """``sm89`` from ``(8, 9)``."""
    return f"sm{capability[0]}{capability[1]}"


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines are for.

    Attributes:
        architecture: ``"sm89"``.
        name: where kernels are timed on the GPU itself, so that an engine is for this model alone;
            empty where the architecture decides.
    """

    architecture: str
    name: str = ""


def choose_gpu(
    library: TensorrtLibrary, wanted: str | None, present: tuple[tuple[int, int], str] | None
) -> Gpu:
    """The GPU to build for.

    Args:
        library: who builds.
        wanted: architecture that the user asked for; None: the GPU that is there.
        present: compute capability and name of that GPU, None without one.

    Raises:
        InvalidRequest: `wanted` is no architecture.
        BackendError: there is no GPU to build for, or the library cannot build for that one.
    """
    name = None if wanted is None else architecture_from_text(wanted)
    here = None if present is None else architecture_from_capability(present[0])
    if library.builds_ahead_of_time:
        return Gpu(_ahead_of_time(library, name, here))
    if present is None or here is None:
        raise BackendError(
            "there is no GPU to build TensorRT engines for",
            got="no working CUDA device",
            expected="the GPU that will generate: TensorRT times kernels on it",
            fix="build on that machine; --backend tensorrt-rtx builds anywhere, for RTX GPUs",
        )
    if name not in (None, here):
        raise BackendError(
            "TensorRT builds for the GPU it runs on",
            got=name,
            expected=here,
            fix="leave --gpu-arch out, or use --backend tensorrt-rtx for RTX GPUs",
        )
    return Gpu(here, present[1])


def _ahead_of_time(library: TensorrtLibrary, wanted: str | None, here: str | None) -> str:
    choices = " or ".join(library.architectures)
    name = here if wanted is None else wanted
    if name is None:
        raise BackendError(
            f"there is no GPU to build {library.title} engines for",
            got="no working CUDA device",
            expected="a GPU, or the name of an architecture",
            fix=f"--gpu-arch {choices}",
        )
    if name not in library.architectures:
        raise BackendError(
            f"{library.title} {library.version} does not build for this architecture",
            got=name,
            expected=choices,
            fix="use --backend tensorrt on this GPU" if name == here else "name one of these",
        )
    return name
