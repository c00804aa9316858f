"""A bundle on disk, verified before anything in it is parsed (docs/bundle_format.md)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from fam_runtime.bundle._graph_files import check_graph_file
from fam_runtime.bundle._not_a_bundle import not_a_bundle
from fam_runtime.bundle._strict_json import MAX_JSON_BYTES
from fam_runtime.bundle.integrity import HashProgress, checked_bytes, verify_file
from fam_runtime.bundle.kernels import KernelTables, kernel_tables_from_bytes
from fam_runtime.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest, Target
from fam_runtime.bundle.onnx_external_data import ExternalData
from fam_runtime.bundle.paths import open_confined
from fam_runtime.errors import BundleDamaged, BundleNotFound, InvalidRequest

__all__ = ["MAX_READ_BYTES", "Bundle", "KernelTables", "read_manifest"]

Verify = Literal["full", "size"]

MAX_READ_BYTES = 256 * 1024 * 1024
"""Files read whole are tokenizers, tables and kernels (SDXL at 4x: 4 MB), never weights."""

_WEIGHTS, _WEIGHTS_INDEX = "weights.bin", "weights.json"

_Fingerprint = tuple[int, int, int, int]


class Bundle:
    """An opened bundle, or a part of one.

    Attributes:
        root: its folder.
        manifest: what is in it.
        hash: SHA-256 of manifest.json; through it, of every byte.
    """

    def __init__(self, root: Path, manifest: Manifest, bundle_hash: str) -> None:
        self.root, self.manifest, self.hash = root, manifest, bundle_hash
        self._hashed: dict[str, _Fingerprint] = {}
        self._part: frozenset[str] | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: Verify | str = "full",
        progress: HashProgress | None = None,
        only: Collection[str] | None = None,
    ) -> Bundle:
        """Open the bundle in the folder `path`, or the part of it that the folder holds.

        Args:
            path: the folder with manifest.json; it may itself be a link.
            verify: ``"full"`` hashes every file; ``"size"`` only compares sizes, for bundles that
                were verified before and that nobody else can write to.
            progress: told how many further bytes have been hashed.
            only: listed files that are needed, and with a graph those that it reads
                (:meth:`files_of_graph`). They alone are checked; others may be missing, and the
                opened bundle refuses to hand them out. None: every file. The hash is the whole
                bundle's either way, because it is the manifest's.

        Raises:
            BundleNotFound: there is no bundle.
            BundleVersionUnsupported: it is newer than this package.
            BundleDamaged, BundlePathRefused: it is not whole, or not safe.
        """
        if verify not in ("full", "size"):
            raise InvalidRequest("unknown verify", got=verify, expected="'full' or 'size'")
        bundle = cls.unchecked(path)
        contents = verify == "full"
        if only is None:
            bundle._check(bundle.manifest.files, contents, progress)
            return bundle
        bundle._check(only, contents, progress)
        # What a graph reads beside it can be told only now that it has been verified itself.
        graphs = [name for name in only if name.endswith(".onnx")]
        read = {file: None for graph in graphs for file in bundle.files_of_graph(graph)}
        bundle._check([name for name in read if name not in only], contents, progress)
        bundle._part = frozenset((*only, *read))
        return bundle

    @classmethod
    def unchecked(cls, path: str | os.PathLike[str]) -> Bundle:
        """The bundle in the folder `path` with only its manifest read, to look at what it is.

        Nothing else may be done with its files before :meth:`check_file` has passed them.

        Raises:
            BundleNotFound, BundleVersionUnsupported, BundleDamaged, BundlePathRefused: as
                :meth:`open`, as far as the manifest goes.
        """
        root = Path(path)
        data = read_manifest(root)
        return cls(root, Manifest.from_bytes(data), hashlib.sha256(data).hexdigest())

    def check_file(
        self, name: str, *, contents: bool = True, progress: HashProgress | None = None
    ) -> None:
        """Compare the listed file `name` with its record; a graph may refer to listed data only.

        Args:
            name: the file.
            contents: hash it; False compares its size only.
            progress: told how many further bytes have been hashed.

        Raises:
            BundleDamaged, BundlePathRefused: it is not what the manifest lists, or not safe.
        """
        record = self._record(name)
        status = verify_file(self.root, name, record, contents=contents, progress=progress)
        if contents:
            self._hashed[name] = _fingerprint(status)
        if name.endswith(".onnx"):
            check_graph_file(self.root, name, self.manifest.files)

    def path(self, name: str) -> Path:
        """Where the listed file `name` lies; it is hashed again if it changed since it was.

        Raises:
            BundleDamaged: the manifest does not list it, or it is gone or another.
            BundlePathRefused: it has become a link.
        """
        status = verify_file(self.root, name, self._record(name), contents=False)
        if name in self._hashed and self._hashed[name] != _fingerprint(status):
            self.check_file(name)
        return self.root / name

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

    def files_of_graph(self, graph: str) -> tuple[str, ...]:
        """The listed files that loading `graph` reads: its own, its weights', and their index.

        Raises:
            BundleDamaged, BundlePathRefused: as :meth:`external_data`.
        """
        folder = PurePosixPath(graph).parent
        beside = sorted({tensor.location for tensor in self.external_data(graph)})
        if _WEIGHTS in beside and (folder / _WEIGHTS_INDEX).as_posix() in self.manifest.files:
            beside.append(_WEIGHTS_INDEX)
        return (graph, *((folder / name).as_posix() for name in beside))

    def external_data(self, graph: str) -> tuple[ExternalData, ...]:
        """The tensors that `graph` keeps in the weights file beside it.

        Raises:
            BundleDamaged, BundlePathRefused: as :meth:`check_file`, for its contents.
        """
        self._record(graph)
        return check_graph_file(self.root, graph, self.manifest.files).external

    def external_bytes(self, graph: str) -> dict[str, int]:
        """Bytes of each of these tensors, by name.

        Raises:
            BundleDamaged, BundlePathRefused: as :meth:`external_data`.
        """
        folder, files = PurePosixPath(graph).parent, self.manifest.files
        return {
            tensor.tensor: files[(folder / tensor.location).as_posix()].bytes - tensor.offset
            if tensor.length is None
            else tensor.length
            for tensor in self.external_data(graph)
        }

    def _check(self, names: Iterable[str], contents: bool, progress: HashProgress | None) -> None:
        """Check the listed files `names`: sizes first, so that a truncated copy is told at once."""
        names = tuple(names)
        for name in names:
            verify_file(self.root, name, self._record(name), contents=False)
        for name in names:
            self.check_file(name, contents=contents, progress=progress)

    def _record(self, name: str) -> FileRecord:
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleDamaged(
                "manifest.json does not list this file",
                got=name,
                expected="a listed file",
                fix="export the bundle again with fam-export",
            )
        if self._part is not None and name not in self._part:
            raise BundleDamaged(
                "this file was left out when a part of the bundle was opened",
                got=name,
                expected=f"one of {', '.join(sorted(self._part))}",
                fix="name it in `only`, or open the whole bundle",
            )
        return record


def read_manifest(root: Path) -> bytes:
    """The bytes of manifest.json, not parsed, at most one more than a reader accepts.

    Raises:
        BundleNotFound: there is no bundle at `root`.
        BundleDamaged, BundlePathRefused: the manifest cannot be read, or is no plain file.
    """
    try:
        if not os.path.lexists(root / MANIFEST_NAME):
            raise not_a_bundle(root)
        with open_confined(root, MANIFEST_NAME) as stream:
            return stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BundleNotFound(
            f"the bundle at {root} cannot be read",
            got=error.strerror,
            expected="a folder that this user may read",
            fix="change the permissions of the folder, or give the path of another one",
        ) from error


def _fingerprint(status: os.stat_result) -> _Fingerprint:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
