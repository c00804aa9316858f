"""What an engine depends on, as a key, and in words where two keys differ."""

from __future__ import annotations

import hashlib
import json
import platform
import posixpath
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.backends.tensorrt.shapes import SymbolRanges, describe_ranges

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle

BUILDER_REVISION = 1
"""Counts changes of this package that make another engine out of the same inputs."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides what is in a plan.

    Attributes:
        library, version: who built it.
        architecture: ``"sm89"``, for which GPU.
        gpu: its name, where kernels were timed on it; empty where the architecture decides.
        platform: operating system and processor.
        graph_sha256: of the .onnx file.
        weights_sha256: of the weights beside it; empty where there are none.
        shapes: the range of every symbol, as text.
        dtype: of the model.
        flags: names of the builder's flags.
        workspace_bytes, optimization_level: None: the library's own.
        revision: see :data:`BUILDER_REVISION`.
    """

    library: str
    version: str
    architecture: str
    gpu: str
    platform: str
    graph_sha256: str
    weights_sha256: str
    shapes: str
    dtype: str
    flags: tuple[str, ...]
    workspace_bytes: int | None
    optimization_level: int | None
    revision: int = BUILDER_REVISION

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, hexadecimal."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """JSON types; the inverse of :func:`key_from_dict`."""
        return {**asdict(self), "flags": list(self.flags)}


def key_from_dict(document: object) -> EngineKey | None:
    """The key in a record; None if it has not the fields of a key."""
    names = {field.name for field in fields(EngineKey)}
    if not isinstance(document, dict) or set(document) != names:
        return None
    if not isinstance(document["flags"], list):
        return None
    values = {**document, "flags": tuple(document["flags"])}
    return EngineKey(**values) if all(map(_is_plain, values.values())) else None


def _is_plain(value: object) -> bool:
    """Whether it is what a key consists of: so that keys can be compared, hashed and shown."""
    if isinstance(value, tuple):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, (str, int))


def engine_key(
    bundle: Bundle,
    graph: str,
    ranges: SymbolRanges,
    library: TensorrtLibrary,
    gpu: Gpu,
    settings: BuildSettings,
) -> EngineKey:
    """The key of an engine of `graph`, a file of `bundle`."""
    files, folder = bundle.manifest.files, posixpath.dirname(graph)
    beside = sorted({f"{folder}/{tensor.location}" for tensor in bundle.external_data(graph)})
    return EngineKey(
        library.name,
        library.version,
        gpu.architecture,
        gpu.name,
        f"{platform.system().lower()}-{platform.machine().lower()}",
        files[graph].sha256,
        "+".join(files[name].sha256 for name in beside),
        describe_ranges(ranges),
        bundle.manifest.model.dtype,
        builder_flags(library, settings, bundle),
        settings.workspace_bytes,
        settings.optimization_level,
    )


def builder_flags(
    library: TensorrtLibrary, settings: BuildSettings, bundle: Bundle
) -> tuple[str, ...]:
    """Names of the builder's flags, sorted.

    The weights of a stripped plan come back unchanged, so that TensorRT may choose its kernels
    knowing them (REFIT_IDENTICAL); with REFIT alone, TensorRT 11.3 is known to drop the bias of a
    product. TensorRT for RTX documents its weightless plans with REFIT.
    """
    flags = []
    if settings.uses_tf32(bundle.manifest.model.dtype):
        flags.append("TF32")
    if settings.strip_weights:
        flags += ["STRIP_PLAN", "REFIT" if library.builds_ahead_of_time else "REFIT_IDENTICAL"]
    if library.builds_ahead_of_time:
        flags.append("REQUIRE_USER_ALLOCATION")  # or it cannot be captured in a CUDA graph
    return tuple(sorted(flags))


_WORDS = {
    "library": "it was built with {old}, and {new} was asked for",
    "version": "it was built with version {old} of the library, and this is {new}",
    "architecture": "it was built for {old}, and this is {new}",
    "gpu": "it was built on {old}, and this is {new}",
    "platform": "it was built on {old}, and this is {new}",
    "graph_sha256": "the graph has changed since",
    "weights_sha256": "the weights have changed since",
    "shapes": "it was built for {old}, and {new} was asked for",
    "dtype": "it was built for weights in {old}, and these are in {new}",
    "flags": "it was built with the flags {old}, and {new} were asked for",
    "workspace_bytes": "it was built with a workspace of {old}, and {new} was asked for",
    "optimization_level": "it was built at optimization level {old}, and {new} was asked for",
    "revision": "it was built by another revision of this package",
}


def differences(old: EngineKey, new: EngineKey) -> list[str]:
    """What differs, as clauses; the most telling one first."""

    def shown(value: object) -> str:
        if value is None:
            return "the default"
        return " ".join(value) or "none" if isinstance(value, tuple) else str(value)

    return [
        words.format(old=shown(getattr(old, name)), new=shown(getattr(new, name)))
        for name, words in _WORDS.items()
        if getattr(old, name) != getattr(new, name)
    ]
