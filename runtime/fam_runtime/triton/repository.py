"""A model repository on the disk: new, or with one more version, and never half there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fam_runtime.bundle import (
    Bundle,
    publish_directory,
    remove_temporary_files,
    write_atomically,
)
from fam_runtime.errors import FamError, InvalidRequest, StorageError
from fam_runtime.triton.existing_models import ExistingModel, models_beside, versions_beside
from fam_runtime.triton.models import models_of_bundle
from fam_runtime.triton.repository_place import (
    only_writer,
    resolved_root,
    staging_folder,
    storage_error,
)
from fam_runtime.triton.served_files import CONFIG_NAME, ModelFolder
from fam_runtime.triton.version_folder import is_version_of, stage_model

if TYPE_CHECKING:
    from fam_runtime.bundle.integrity import HashProgress
    from fam_runtime.triton.options import RepositoryOptions

Existing = Mapping[str, ExistingModel]


@dataclass(frozen=True)
class WrittenRepository:
    """What was written.

    Attributes:
        root: the repository.
        version: the folder of each model.
        models: names, the picture models last.
        kept: those of them whose version was there already, byte for byte.
        changes: options that differ from what the configurations said before, such as
            ``queue_size 3 -> none``; they hold for all versions.
        bytes: of all files of the models that are new, or of their new version.
    """

    root: Path
    version: int
    models: tuple[str, ...]
    kept: tuple[str, ...]
    changes: tuple[str, ...]
    bytes: int


def write_repository(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: RepositoryOptions,
    *,
    progress: HashProgress | None = None,
) -> WrittenRepository:
    """Write the repository that serves `bundle`, or add a version to the one at `output`.

    Every model is whole when it appears, and an error takes back what was there before it. The
    copies are hashed, so that they are the bundle. A version that is there already, byte for byte,
    is kept: the same call again finishes what was begun, or changes options.

    Args:
        bundle: folder of the bundle.
        output: the repository; other models in it are left alone.
        options: what it is to be.
        progress: told how many further bytes have been hashed.

    Raises:
        BundleError: the bundle is missing or damaged.
        BackendError: the bundle does not run in this layout.
        InvalidRequest: the version is there already with other files, a model is another's, it does
            not go with the versions that are served with it, or `output` is no place for it.
        StorageError: it cannot be written.
    """
    source = Bundle.open(bundle, verify="size")
    root = resolved_root(output, source)
    with _storage_errors(root), only_writer(root):
        written = _write(source, root, options, progress)
    return replace(written, root=Path(output))


def _write(
    source: Bundle, root: Path, options: RepositoryOptions, progress: HashProgress | None
) -> WrittenRepository:
    beside = versions_beside(root, options)
    models = models_of_bundle(source, options, beside)
    existing = models_beside(root, models, options)
    beside.check_tensors(source.manifest)
    kept = _kept(models, existing, options, source, progress)
    with staging_folder(root) as staging:
        for model in models:
            if model.name not in kept:
                stage_model(staging / model.name, model, options.version, source, progress)
        size = _size(staging)
        _publish(staging, root, models, existing, options.version)
    names, changes = tuple(model.name for model in models), _changes(models, existing)
    return WrittenRepository(root, options.version, names, kept, changes, size)


def _kept(
    models: Sequence[ModelFolder],
    existing: Existing,
    options: RepositoryOptions,
    source: Bundle,
    progress: HashProgress | None,
) -> tuple[str, ...]:
    """Models whose version is there already as it would be written.

    Raises:
        InvalidRequest: one is there with other files.
    """
    version = options.version
    there = [m for m in models if m.name in existing and version in existing[m.name].versions]
    other = [
        model.name
        for model in there
        if not is_version_of(existing[model.name].folder / str(version), model, source, progress)
    ]
    if other:
        numbers = [number for model in existing.values() for number in model.versions]
        raise InvalidRequest(
            "the repository has this version already, with other files",
            got=", ".join(f"{name}/{version}" for name in other),
            expected="a version that is not there, or the bundle that it was written from",
            fix=f"--model-version {max(numbers) + 1}, or another --output",
        )
    return tuple(model.name for model in there)


def _publish(
    staging: Path, root: Path, models: Sequence[ModelFolder], existing: Existing, version: int
) -> None:
    """Move staged models into place: graphs first, then the picture models that call them.

    Whatever goes wrong, the repository is as it was before.
    """
    with ExitStack() as undo:
        for model in models:
            staged, final = staging / model.name, root / model.name
            before = existing.get(model.name)
            if before is None:
                _move(staged, final, undo)
                continue
            remove_temporary_files(final)
            if version not in before.versions:
                _move(staged / str(version), final / str(version), undo)
            for name, data in model.shared_files.items():
                _replace(final / name, data, undo)
            _replace(final / CONFIG_NAME, model.config.encode(), undo)
        undo.pop_all()


def _move(staged: Path, final: Path, undo: ExitStack) -> None:
    publish_directory(staged, final)
    undo.callback(_quietly, lambda: final.rename(staged))


def _replace(path: Path, data: bytes, undo: ExitStack) -> None:
    """Write a file, where it is not there with these bytes."""
    before = path.read_bytes() if path.exists() else None
    if before == data:
        return
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, data)
    if before is None:
        undo.callback(_quietly, path.unlink)
    else:
        undo.callback(_quietly, lambda: write_atomically(path, before))


def _quietly(step: Callable[[], object]) -> None:
    """Take one step back; where it fails, the others are still taken."""
    with contextlib.suppress(OSError, FamError):
        step()


@contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, root) from error
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.EXDEV, errno.ENOTDIR):
            raise storage_error(cause, root) from error
        raise


def _changes(models: Sequence[ModelFolder], existing: Existing) -> tuple[str, ...]:
    changed = (
        change
        for model in models
        if model.name in existing and (before := existing[model.name].head) is not None
        for change in before.changes(model.head)
    )
    return tuple(dict.fromkeys(changed))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
