"""Engines on the disk: found by everything they depend on, or said why there is none.

``<root>/<library>-<version>-<GPU>-<platform>/<model>/<graph>-<key>.plan``, each with its record.
The files are keyed by graphs and weights and not by the bundle's hash, so that adding a target to a
bundle leaves the engines of the others as they are. The folder may be deleted at any time; engines
are built again.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fam_runtime.backends.tensorrt.engine_key import EngineKey, differences, key_from_dict
from fam_runtime.backends.tensorrt.verified_store import Damaged, VerifiedStore
from fam_runtime.errors import BackendError, StorageError

CACHE_VARIABLE = "FAM_CACHE_DIR"

_UNSAFE = re.compile(r"[^a-z0-9._-]+")
_SLUG_CHARACTERS = 64
_KEY_CHARACTERS = 16
_TIMING_CACHE = "timing.cache"
_KERNELS_SUFFIX = ".kernels"


def default_cache_dir() -> Path:
    """``$FAM_CACHE_DIR``, else ``fam-diffusion/engines`` in the user's cache folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fam-diffusion" / "engines"


class EngineCacheNotKept(UserWarning):
    """What would have saved time later could not be written."""


@dataclass(frozen=True)
class CachedPlan:
    """A plan whose bytes are those that were built.

    Attributes:
        data: the plan; a buffer.
        name: in the cache.
        seconds: that building it took.
    """

    data: Any
    name: str
    seconds: float


class EngineCache:
    """Plans, their records, and the timing caches that builds leave.

    Args:
        root: the folder; None: :func:`default_cache_dir`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.store = VerifiedStore(default_cache_dir() if root is None else root)

    def plan_name(self, model: str, graph: str, key: EngineKey) -> str:
        """Where the plan of `key` is, relative to the root."""
        file = f"{slug(graph.removesuffix('.onnx'))}-{key.digest[:_KEY_CHARACTERS]}.plan"
        return f"{_folder(key)}/{slug(model)}/{file}"

    def find(self, model: str, graph: str, key: EngineKey) -> CachedPlan | str:
        """The plan of `key`, or in one sentence why it has to be built; empty: it never was.

        Args:
            model: name of the bundle's model.
            graph: name of the graph's file.
            key: what the engine depends on.
        """
        name = self.plan_name(model, graph, key)
        try:
            stored = self.store.read(name)
        except Damaged as damage:
            return f"The engine of {graph} is refused and built again: {damage}."
        if stored is None:
            return self._why_another(model, graph, key)
        if key_from_dict(stored.details.get("key")) != key:
            return f"The engine of {graph} is refused and built again: its record is of another."
        return CachedPlan(stored.data, name, _seconds(stored.details) or 0.0)

    def keep(self, model: str, graph: str, key: EngineKey, plan: Any, seconds: float) -> None:
        """Write a plan; see :meth:`VerifiedStore.write`."""
        details = {"key": key.as_dict(), "model": model, "graph": graph, "seconds": seconds}
        self.store.write(self.plan_name(model, graph, key), plan, details)

    def seconds_of_earlier_build(self, model: str, graph: str, key: EngineKey) -> float | None:
        """How long an engine of the same graph took for the same library and GPU, if one did."""
        for other, details in self._records(f"{_folder(key)}/{slug(model)}", graph):
            if other.shapes == key.shapes and (seconds := _seconds(details)) is not None:
                return seconds
        return None

    def timing_cache(self, key: EngineKey) -> bytes:
        """Of earlier builds with the same library for the same GPU; empty without one."""
        return self._read_or_nothing(f"{_folder(key)}/{_TIMING_CACHE}")

    def keep_timing_cache(self, key: EngineKey, data: bytes) -> None:
        """Write it for the next build."""
        if data:
            self._write_or_warn(f"{_folder(key)}/{_TIMING_CACHE}", data)

    def kernels(self, plan_name: str) -> bytes:
        """Kernels that TensorRT for RTX compiled for a plan in earlier runs; empty without any."""
        return self._read_or_nothing(plan_name + _KERNELS_SUFFIX)

    def keep_kernels(self, plan_name: str, data: bytes) -> None:
        """Write them, unless they are the ones that are there."""
        if data and data != self.kernels(plan_name):
            self._write_or_warn(plan_name + _KERNELS_SUFFIX, data)

    def _read_or_nothing(self, name: str) -> bytes:
        """A file that only saves time: damaged, it is as good as none."""
        try:
            stored = self.store.read(name)
        except Damaged:
            return b""
        return b"" if stored is None else bytes(stored.data)

    def _write_or_warn(self, name: str, data: bytes) -> None:
        """A file that only saves time: that it cannot be kept stops nothing."""
        try:
            self.store.write(name, data, {})
        except (StorageError, BackendError) as error:
            warnings.warn(f"{name} was not kept: {error}", EngineCacheNotKept, stacklevel=3)

    def _why_another(self, model: str, graph: str, key: EngineKey) -> str:
        known = self._records(f"*/{slug(model)}", graph)
        clauses = [differences(other, key) for other, _ in known]
        nearest = min((found for found in clauses if found), key=len, default=None)
        if nearest is None:
            return ""
        return f"There is an engine of {graph}, but {nearest[0]}: building another."

    def _records(self, folder: str, graph: str) -> list[tuple[EngineKey, Mapping[str, Any]]]:
        """Keys and records of the engines of a graph that can be read."""
        found = []
        for name in self.store.names(f"{folder}/{slug(graph.removesuffix('.onnx'))}-*.plan"):
            try:
                record = self.store.record(name)
            except Damaged:
                continue
            details = {} if record is None else record["details"]
            key = key_from_dict(details.get("key"))
            if key is not None and details.get("graph") == graph:
                found.append((key, details))
        return found


def slug(text: str) -> str:
    """`text` as a part of a file name: lower case, no separators, at most 64 characters."""
    return _UNSAFE.sub("-", text.lower()).strip("-.")[:_SLUG_CHARACTERS] or "unnamed"


def _folder(key: EngineKey) -> str:
    gpu = f"{key.architecture}-{key.gpu}" if key.gpu else key.architecture
    return slug(f"{key.library}-{key.version}-{gpu}-{key.platform}")


def _seconds(details: Mapping[str, Any]) -> float | None:
    seconds = details.get("seconds")
    return seconds if isinstance(seconds, float) and 0 <= seconds < float("inf") else None
