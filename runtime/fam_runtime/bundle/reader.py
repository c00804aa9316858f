"""A bundle on disk: opened only when it is whole, read only through names it lists."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from fam_runtime import contract
from fam_runtime.bundle._strict_json import MAX_JSON_BYTES
from fam_runtime.bundle.integrity import HashProgress, verify_file
from fam_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from fam_runtime.bundle.manifest_parts import Target
from fam_runtime.bundle.onnx_external_data import external_locations
from fam_runtime.bundle.paths import confined_path, open_confined
from fam_runtime.errors import BundleDamaged, BundleNotFound, BundlePathRefused, InvalidRequest

Verify = Literal["full", "size"]
WEIGHT_FILES = ("weights.bin", "model.bin")
"""The only names that a graph may keep external data under, in its own folder."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class KernelTables:
    """FM kernels of a target: float32 rows ``[T, H]``, columns ``[T, W]``, weight ``[T]``."""

    rows: Float32Array
    columns: Float32Array
    weight: Float32Array


class Bundle:
    """An opened bundle.

    Attributes:
        root: its folder.
        manifest: what is in it.
        hash: SHA-256 of manifest.json; through it, of every byte.
    """

    def __init__(self, root: Path, manifest: Manifest, bundle_hash: str) -> None:
        self.root, self.manifest, self.hash = root, manifest, bundle_hash

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: Verify | str = "full",
        progress: HashProgress | None = None,
    ) -> Bundle:
        """Open the bundle in the folder `path`.

        Args:
            path: the folder with manifest.json.
            verify: ``"full"`` hashes every file; ``"size"`` only compares sizes, for bundles
                that nobody else can write to.
            progress: told how many further bytes have been hashed.

        Raises:
            BundleNotFound: there is no bundle.
            BundleVersionUnsupported: it is newer than this package.
            BundleDamaged, BundlePathRefused: it is not whole, or not safe.
        """
        if verify not in ("full", "size"):
            raise InvalidRequest("unknown verify", got=verify, expected="'full' or 'size'")
        root = Path(path)
        data = _read_manifest(root)
        bundle = cls(root, Manifest.from_bytes(data), hashlib.sha256(data).hexdigest())
        for name, record in bundle.manifest.files.items():
            verify_file(root, name, record, contents=verify == "full", progress=progress)
        for name in bundle.manifest.graphs:
            bundle._check_external_data(name)
        return bundle

    def path(self, name: str) -> Path:
        """Where the listed file `name` lies.

        Raises:
            BundleDamaged: the manifest does not list it, or it is gone.
            BundlePathRefused: it has become a link.
        """
        self._check_listed(name)
        return confined_path(self.root, name)

    def read_bytes(self, name: str) -> bytes:
        """The contents of the listed file `name`."""
        self._check_listed(name)
        with open_confined(self.root, name) as stream:
            return stream.read()

    def kernel_tables(self, target: Target) -> KernelTables:
        """The FM kernels of `target`.

        Raises:
            BundleDamaged: the file is no safetensors file, or its tables have other shapes,
                types or values than the format says.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(self.read_bytes(target.kernels))
        except (SafetensorError, ValueError, KeyError) as error:
            raise _bad_kernels(target.kernels, str(error)) from error
        steps = int(self.manifest.noise_schedule["num_train_timesteps"])
        height, width = self.manifest.latent_size(target)
        shapes = {
            contract.FM_TABLE_ROWS: (steps, height),
            contract.FM_TABLE_COLUMNS: (steps, width),
            contract.FM_TABLE_WEIGHT: (steps,),
        }
        for name, shape in shapes.items():
            table = tensors.get(name)
            if table is None or table.dtype != np.float32 or table.shape != shape:
                got = "nothing" if table is None else f"{table.dtype} {table.shape}"
                raise _bad_kernels(target.kernels, f"{name}: {got}", f"float32 {shape}")
            if not np.isfinite(table).all():
                raise _bad_kernels(target.kernels, f"{name}: NaN or infinity", "finite numbers")
        return KernelTables(*(tensors[name] for name in shapes))

    def _check_listed(self, name: str) -> None:
        if name not in self.manifest.files:
            raise BundleDamaged(
                "the bundle does not list this file",
                got=name,
                expected="a file that manifest.json lists",
                fix="export the bundle again with fam-export",
            )

    def _check_external_data(self, graph: str) -> None:
        """A graph may refer to the weights beside it, and to nothing else."""
        folder = PurePosixPath(graph).parent
        permitted = {n for n in WEIGHT_FILES if (folder / n).as_posix() in self.manifest.files}
        for location in sorted(external_locations(self.read_bytes(graph))):
            if location not in permitted:
                raise BundlePathRefused(
                    f"{graph} refers to external data that is not the bundle's",
                    got=location,
                    expected=" or ".join(sorted(permitted)) or "no external data",
                    fix="do not use this bundle",
                )


def _read_manifest(root: Path) -> bytes:
    if not root.is_dir():
        raise BundleNotFound(
            f"there is no bundle at {root}",
            expected="a folder with manifest.json",
            fix=f"make one with: fam-export --scale 2 --output {root}",
        )
    if not os.path.lexists(root / MANIFEST_NAME):
        if (root / "model_index.json").exists():
            raise BundleNotFound(
                f"{root} is a checkpoint, not a bundle",
                fix=f"export it first: fam-export --model {root} --scale 2",
            )
        raise BundleNotFound(
            f"{root} is not a bundle: it has no {MANIFEST_NAME}",
            fix=f"make one with: fam-export --scale 2 --output {root}",
        )
    with open_confined(root, MANIFEST_NAME) as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    return data


def _bad_kernels(name: str, got: str, expected: str = "a safetensors file") -> BundleDamaged:
    return BundleDamaged(
        f"{name} of the bundle does not hold FM kernels",
        got=got,
        expected=expected,
        fix="get the bundle again or export it again with fam-export",
    )
