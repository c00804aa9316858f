"""FAM Diffusion without PyTorch: reads a bundle, runs its graphs, makes pictures.

Importing this package loads nothing but the standard library; names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fam_runtime._version import __version__

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle
    from fam_runtime.errors import FamError
    from fam_runtime.methods import METHODS
    from fam_runtime.picture import settings_from_png
    from fam_runtime.pipeline import FamPipeline
    from fam_runtime.pipeline_output import FamPipelineOutput

__all__ = [
    "METHODS",
    "Bundle",
    "FamError",
    "FamPipeline",
    "FamPipelineOutput",
    "__version__",
    "settings_from_png",
]

_HOMES = {
    "METHODS": "fam_runtime.methods",
    "Bundle": "fam_runtime.bundle",
    "FamError": "fam_runtime.errors",
    "FamPipeline": "fam_runtime.pipeline",
    "FamPipelineOutput": "fam_runtime.pipeline_output",
    "settings_from_png": "fam_runtime.picture",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
