"""What lies in a model's folder, before it is written: configuration, program, bundle parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fam_runtime.triton.model_head import ModelHead

BUNDLE_FOLDER = "bundle"
"""In a version's folder: the bundle, or the part of it that the model needs."""

CONFIG_NAME = "config.pbtxt"
PROGRAM_NAME = "model.py"

_PROGRAM = '''\
"""Written by fam-triton: the program is in the package fam_runtime."""

try:
    from fam_runtime.triton.served.{module} import TritonPythonModel
except ImportError as error:
    raise ImportError(
        "this model needs fam_runtime in the Python that Triton's backend runs: install "
        f"fam-diffusion there with the extra of its backend, such as [cpu] or [cuda] ({{error}})"
    ) from error

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class ModelFolder:
    """One model of the repository.

    Attributes:
        name: its folder.
        head: whose it is; the first line of `config`.
        config: text of its configuration.
        shared_files: files beside the configuration, by name.
        version_files: files in the version's folder that are written here, by name.
        bundle_files: files in the version's folder that are copied, from the bundle's name to the
            name there.
        bundle_part: listed files that are copied to :data:`BUNDLE_FOLDER` under their own names,
            with the manifest; None: the folder has none.
    """

    name: str
    head: ModelHead
    config: str
    shared_files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    version_files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    bundle_files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    bundle_part: tuple[str, ...] | None = None


def program(module: str) -> dict[str, bytes]:
    """The program of a Python model whose class is in `fam_runtime.triton.served.<module>`."""
    return {PROGRAM_NAME: _PROGRAM.format(module=module).encode()}
