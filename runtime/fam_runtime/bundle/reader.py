"""A bundle on disk, verified before anything in it is parsed (docs/bundle_format.md)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from fam_runtime.bundle._graph_files import check_graph_file
from fam_runtime.bundle._not_a_bundle import not_a_bundle
from fam_runtime.bundle._strict_json import MAX_JSON_BYTES
from fam_runtime.bundle.integrity import (
    Progress,
    check_content,
    check_files,
    check_size,
    checked_bytes,
)
from fam_runtime.bundle.kernels import KernelTables, kernel_tables_from_bytes
from fam_runtime.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest, Target
from fam_runtime.bundle.paths import open_confined
from fam_runtime.errors import BundleDamaged, InvalidRequest

Verify = Literal["full", "size"]

MAX_READ_BYTES = 256 * 1024 * 1024
"""Files read whole are tokenizers, tables and kernels (SDXL at 4x: 4 MB), never weights."""

_Fingerprint = tuple[int, int, int, int]


class Bundle:
    """A verified bundle: its manifest and the ways to its files."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        bundle_hash: str,
        verified: dict[str, _Fingerprint] | None,
    ) -> None:
        """Use `Bundle.open`; `verified` is None where only sizes were compared."""
        self.root = root
        self.manifest = manifest
        self.hash = bundle_hash
        self._verified = verified

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: Verify = "full",
        progress: Progress | None = None,
    ) -> Bundle:
        """Open the bundle in the directory `path`.

        Args:
            path: the directory that holds manifest.json; it may itself be a link.
            verify: "full" hashes every file; "size" only compares sizes, for a bundle that was
                verified before and that nobody else can write to.
            progress: called as `progress(file name, bytes done, bytes in all)` while hashing.

        Raises:
            BundleNotFound: if there is no bundle.
            BundleVersionUnsupported: if its format is newer than this package.
            BundleDamaged, BundlePathRefused: if it is not intact, or not safe to use.
        """
        if verify not in ("full", "size"):
            raise InvalidRequest("verify is not right", got=verify, expected="'full' or 'size'")
        root = Path(path)
        data = _manifest_bytes(root)
        manifest = Manifest.from_bytes(data)
        verified = _verify_files(root, manifest, verify, progress)
        for name in sorted(manifest.files):
            if name.endswith(".onnx"):
                check_graph_file(root, name, manifest.files)
        return cls(root, manifest, hashlib.sha256(data).hexdigest(), verified)

    def path(self, name: str) -> Path:
        """The path of the listed file `name`; hashed again if it changed since `open`.

        Raises:
            BundleDamaged, BundlePathRefused: if it is not listed or no longer what is listed.
        """
        record = self._record(name)
        check_size(self.root, name, record)
        path = self.root / name
        if self._verified is not None and _fingerprint(os.lstat(path)) != self._verified[name]:
            self._verified[name] = _fingerprint(check_content(self.root, name, record))
        return path

    def read_bytes(self, name: str) -> bytes:
        """The content of the listed file `name`; the bytes returned are hashed, always.

        Raises:
            BundleDamaged, BundlePathRefused: as `path`, and for files above MAX_READ_BYTES.
        """
        return checked_bytes(self.root, name, self._record(name), max_bytes=MAX_READ_BYTES)

    def kernel_tables(self, target: Target) -> KernelTables:
        """The frequency-modulation kernels of `target`: rows [T, H], columns [T, W], weight [T].

        Raises:
            BundleDamaged: if names, dtypes, shapes or values are not what the format says.
        """
        return kernel_tables_from_bytes(
            self.read_bytes(target.kernels),
            name=target.kernels,
            timesteps=self.manifest.noise_schedule["num_train_timesteps"],
            latent_size=self.manifest.latent_size(target),
        )

    def _record(self, name: str) -> FileRecord:
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleDamaged(
                "manifest.json does not list this file", got=name, expected="a listed file"
            )
        return record


def _manifest_bytes(root: Path) -> bytes:
    """The bytes of manifest.json, at most one more than a reader accepts."""
    if not os.path.lexists(root / MANIFEST_NAME):
        raise not_a_bundle(root)
    with open_confined(root, MANIFEST_NAME) as stream:
        return stream.read(MAX_JSON_BYTES + 1)


def _verify_files(
    root: Path, manifest: Manifest, verify: Verify, progress: Progress | None
) -> dict[str, _Fingerprint] | None:
    if verify == "size":
        for name, record in manifest.files.items():
            check_size(root, name, record)
        return None
    statuses = check_files(root, manifest.files, progress=progress)
    return {name: _fingerprint(status) for name, status in statuses.items()}


def _fingerprint(status: os.stat_result) -> _Fingerprint:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
