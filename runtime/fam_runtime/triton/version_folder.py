"""The files of one version of a model: written beside the repository, or found there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fam_runtime.bundle import MANIFEST_NAME, Bundle, FileRecord, verify_file
from fam_runtime.errors import BundleDamaged, BundleError
from fam_runtime.triton.served_files import BUNDLE_FOLDER, CONFIG_NAME, ModelFolder

if TYPE_CHECKING:
    from fam_runtime.bundle.integrity import HashProgress

_COMPILED = "__pycache__"
"""Python's own, which a server may write beside a model's program."""


def stage_model(
    folder: Path,
    model: ModelFolder,
    version: int,
    source: Bundle,
    progress: HashProgress | None = None,
) -> None:
    """Write a model's folder, and prove that what was copied is the bundle.

    Args:
        folder: new.
        model: what is in it.
        version: the folder below.
        source: the bundle.
        progress: told how many further bytes of the copies have been hashed.

    Raises:
        BundleError: the bundle is damaged, or has changed meanwhile.
        OSError: it cannot be written.
    """
    place = folder / str(version)
    place.mkdir(parents=True)
    _write(folder / CONFIG_NAME, model.config.encode())
    for name, data in model.shared_files.items():
        _write(folder / name, data)
    for name, data in model.version_files.items():
        _write(place / name, data)
    for listed, name in model.bundle_files.items():
        _copy(source.path(listed), place / name)
        verify_file(place, name, source.manifest.files[listed], progress=progress)
    if model.bundle_part is not None:
        _copy_part(place / BUNDLE_FOLDER, model.bundle_part, source, progress)


def _copy_part(
    part: Path, names: tuple[str, ...], source: Bundle, progress: HashProgress | None
) -> None:
    part.mkdir()
    _copy(source.root / MANIFEST_NAME, part / MANIFEST_NAME)
    for name in names:
        _copy(source.path(name), part / name)
    copied = Bundle.open(part, only=names, progress=progress)
    if copied.hash != source.hash:
        raise BundleDamaged(
            f"the bundle at {source.root} changed while it was copied",
            got=f"a manifest with SHA-256 {copied.hash}",
            expected=source.hash,
            fix="run fam-triton again when nothing writes to the bundle",
        )


def is_version_of(
    place: Path, model: ModelFolder, source: Bundle, progress: HashProgress | None = None
) -> bool:
    """Whether the version's folder `place` holds, byte for byte, what would be written."""
    records = _records(model, source)
    if set(_files_in(place)) != records.keys():
        return False
    try:
        for name, record in records.items():
            verify_file(place, name, record, progress=progress)
    except BundleError:
        return False
    return True


def _records(model: ModelFolder, source: Bundle) -> dict[str, FileRecord]:
    """Every file of the version's folder."""
    listed = source.manifest.files
    records = {name: _record_of(data) for name, data in model.version_files.items()}
    records |= {name: listed[file] for file, name in model.bundle_files.items()}
    if model.bundle_part is not None:
        manifest = FileRecord((source.root / MANIFEST_NAME).stat().st_size, source.hash)
        records[f"{BUNDLE_FOLDER}/{MANIFEST_NAME}"] = manifest
        records |= {f"{BUNDLE_FOLDER}/{name}": listed[name] for name in model.bundle_part}
    return records


def _record_of(data: bytes) -> FileRecord:
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())


def _files_in(place: Path) -> Iterator[str]:
    for path in place.rglob("*"):
        if not path.is_dir() and path.parent != place / _COMPILED:
            yield path.relative_to(place).as_posix()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("xb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
