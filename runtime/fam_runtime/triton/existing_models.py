"""What a repository holds already, and what a new version may not do to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fam_runtime.bundle import Bundle
from fam_runtime.errors import InvalidRequest
from fam_runtime.triton.interface import STREAM_SUFFIX
from fam_runtime.triton.model_head import PICTURE_ROLE, STREAM_ROLE, ModelHead, head_from_config
from fam_runtime.triton.other_versions import OtherVersions
from fam_runtime.triton.served_files import BUNDLE_FOLDER, CONFIG_NAME, ModelFolder
from fam_runtime.triton.warmup import WARMUP_FOLDER

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest
    from fam_runtime.triton.options import RepositoryOptions


@dataclass(frozen=True)
class ExistingModel:
    """A model's folder with something in it.

    Attributes:
        folder: of the model.
        head: whose it is; None: not fam-triton's.
        config: its configuration, byte for byte.
        versions: numbers of its folders, in order.
    """

    folder: Path
    head: ModelHead | None
    config: bytes
    versions: tuple[int, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    def is_for(self, base: str, role: str) -> bool:
        """Whether fam-triton wrote it in this role for the picture model `base`."""
        return self.head is not None and (self.head.base, self.head.role) == (base, role)


def existing_model(root: Path, name: str) -> ExistingModel | None:
    """The model `name`; None where there is nothing.

    Raises:
        InvalidRequest: a part of it is a link.
        OSError: it cannot be read.
    """
    folder = root / name
    _refuse_links([folder, folder / CONFIG_NAME, folder / WARMUP_FOLDER])
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not folder.is_dir():
        return ExistingModel(folder, None, b"", ())
    versions = [e for e in folder.iterdir() if e.name.isascii() and e.name.isdecimal()]
    _refuse_links([*versions, *(version / BUNDLE_FOLDER for version in versions)])
    config = folder / CONFIG_NAME
    data = config.read_bytes() if config.is_file() else b""
    numbers = tuple(sorted(int(version.name) for version in versions))
    return ExistingModel(folder, head_from_config(data), data, numbers)


def models_beside(
    root: Path, models: Iterable[ModelFolder], options: RepositoryOptions
) -> dict[str, ExistingModel]:
    """Those of `models` that are there already, by name.

    Raises:
        InvalidRequest: one is another's, which must not be overwritten, or a link.
        OSError: one cannot be read.
    """
    found = {}
    for model in models:
        there = existing_model(root, model.name)
        if there is None:
            continue
        if not there.is_for(model.head.base, model.head.role):
            head = there.head
            raise InvalidRequest(
                f"the repository has another model called {model.name}",
                got="one that fam-triton did not write"
                if head is None
                else f"the {head.role} of {head.base}",
                expected=f"no such model, or the {model.head.role} of {model.head.base}",
                fix=f"another --name than {options.name}, or another --output",
            )
        found[model.name] = there
    return found


def versions_beside(root: Path, options: RepositoryOptions) -> OtherVersions:
    """The versions that are served together with the new one.

    Raises:
        InvalidRequest: the new one would not be served, or not suit what is there.
        BundleError: the manifest of such a version cannot be read.
        OSError: the repository cannot be read.
    """
    pictures = picture_models(root, options.name)
    numbers = {options.version, *(n for model in pictures for n in model.versions)}
    newest = sorted(numbers, reverse=True)
    kept, kept_graphs = newest[: options.keep_versions], newest[: options.keep_versions + 1]
    if options.version not in kept:
        raise _never_served(options, newest)
    _check_nothing_is_left_behind(pictures, options)
    kept.remove(options.version)
    kept_graphs.remove(options.version)
    had_graphs = any(_option(model, "layout") == "engines" for model in pictures)
    if options.layout != "engines" or not had_graphs:
        kept_graphs = []
    for model in pictures:
        if kept and set(kept) & set(model.versions):
            _check_same(model, "layout", options.layout, "another --name, or --keep-versions 1")
        if kept_graphs:
            _check_same(model, "engine_platform", options.engine_platform, "another --name")
    return OtherVersions(
        tuple(_manifest(pictures, version) for version in kept),
        tuple(_manifest(pictures, version) for version in kept_graphs),
    )


def picture_models(root: Path, base: str) -> list[ExistingModel]:
    """The plain model and the one that streams, where they are there and fam-triton's."""
    roles = {base: PICTURE_ROLE, base + STREAM_SUFFIX: STREAM_ROLE}
    found = ((existing_model(root, name), role) for name, role in roles.items())
    return [model for model, role in found if model is not None and model.is_for(base, role)]


def _manifest(pictures: Sequence[ExistingModel], version: int) -> Manifest:
    holder = next(model for model in pictures if version in model.versions)
    return Bundle.unchecked(holder.folder / str(version) / BUNDLE_FOLDER).manifest


def _option(model: ExistingModel, name: str) -> object:
    return None if model.head is None else model.head.option(name)


def _check_same(model: ExistingModel, name: str, wanted: str, fix: str) -> None:
    before = _option(model, name)
    if before != wanted:
        raise InvalidRequest(
            f"versions that are served together have one {name.replace('_', ' ')}",
            got=f"{wanted}, where {model.name} has {before}",
            expected=str(before),
            fix=fix,
        )


def _check_nothing_is_left_behind(
    pictures: Sequence[ExistingModel], options: RepositoryOptions
) -> None:
    """A picture model that does not get the new version would go on with an old one."""
    for model in pictures:
        written = model.name in options.picture_models or options.version in model.versions
        if model.versions and not written:
            raise InvalidRequest(
                f"{model.name} would stay at version {model.versions[-1]}",
                got=f"--variant {options.variant}",
                expected="every variant that the repository has",
                fix=f"--variant both, or another --name, or remove {model.name} first",
            )


def _never_served(options: RepositoryOptions, newest: Sequence[int]) -> InvalidRequest:
    needed = newest.index(options.version) + 1
    return InvalidRequest(
        f"version {options.version} would never be served",
        got=f"--keep-versions {options.keep_versions}, beside version {newest[0]}",
        expected="one of the newest versions",
        fix=f"--model-version {newest[0] + 1}, or --keep-versions {needed}",
    )


def _refuse_links(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_symlink():
            raise InvalidRequest(
                "the repository has a link where fam-triton writes",
                got=str(path),
                expected="folders and files of its own",
                fix="put the folder itself there, or use another --output",
            )
