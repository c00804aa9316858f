"""A checkpoint in diffusers' folder layout: which of its weight files are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

from fam_export.checkpoint.configuration import ADD_FOLDER_LAYOUT, Configuration
from fam_export.checkpoint.files import CheckpointFiles
from fam_export.checkpoint.hashing import file_hash
from fam_export.checkpoint.json_file import DOWNLOAD_AGAIN, read_json
from fam_export.checkpoint.pickles import refuse_pickle
from fam_export.checkpoint.stored_tensor import (
    StoredTensor,
    check_tensor_file,
    open_tensor_file,
)
from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

Variant = Literal["fp32", "fp16"]


class FolderFiles(CheckpointFiles):
    """The files of a folder that diffusers' ``save_pretrained`` wrote, or a hub's cache.

    Args:
        root: the folder.
        prefer: which weights to read where a part has them in full and in half precision.

    Raises:
        CheckpointError: `root` has no ``model_index.json``.
    """

    layout = "diffusers folder"

    def __init__(self, root: Path, prefer: Variant = "fp32") -> None:
        if not (root / "model_index.json").is_file():
            raise CheckpointError(
                f"{root} is not a diffusers checkpoint: model_index.json is missing",
                fix=ADD_FOLDER_LAYOUT,
            )
        self._root = root
        self._prefer = prefer

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    @property
    def configuration(self) -> Configuration:
        """The configurations in the folder."""
        return Configuration(self._root)

    def weight_files(self, part: str) -> tuple[Path, ...]:
        """The safetensors files that make up a part, the index of shards left out.

        Raises:
            CheckpointError: there are none, or only pickles.
        """
        stem = weight_stem(part)
        folder = self._root / part
        variants = ("", "fp16") if self._prefer == "fp32" else ("fp16", "")
        for variant in variants:
            dot = f".{variant}" if variant else ""
            if (folder / f"{stem}{dot}.safetensors").is_file():
                return (folder / f"{stem}{dot}.safetensors",)
            index = folder / f"{stem}.safetensors.index{dot}.json"
            if index.is_file():
                return _shards(index)
        for file in sorted(folder.glob("*")) if folder.is_dir() else ():
            refuse_pickle(file)
        found = sorted(file.name for file in folder.glob("*.safetensors"))
        raise CheckpointError(
            f"{folder}: the weights are missing",
            got=found or None,
            expected=f"{stem}.safetensors",
            fix=DOWNLOAD_AGAIN,
        )

    def tensors(self, part: str, module: nn.Module) -> Mapping[str, StoredTensor]:
        """The tensors of all files of `part`."""
        tensors: dict[str, StoredTensor] = {}
        for file in self.weight_files(part):
            tensors.update(open_tensor_file(file).tensors)
        return tensors

    def validate(self) -> None:
        """Look at every file without reading weights.

        Raises:
            CheckpointError: a file is missing, truncated, a pickle or of an unsupported kind.
        """
        self.configuration.validate()
        for part in self.configuration.parts:
            for file in self.weight_files(part):
                check_tensor_file(file)

    def contents(self) -> Iterator[bytes]:
        """The index, then the name and the hash of every file that is read."""
        configuration = self.configuration
        yield (self._root / "model_index.json").read_bytes()
        for folder in sorted(("scheduler", *configuration.parts, *configuration.tokenizers)):
            files = configuration.files(folder)
            if folder in configuration.parts:
                files += self.weight_files(folder)
            for file in sorted(files):
                yield f"{folder}/{file.name} {file_hash(file)}\n".encode()


def weight_stem(part: str) -> str:
    """How the files with the weights of a part are called: transformers' way or diffusers'."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names, all in its folder."""
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    plain = [name for name in names if isinstance(name, str) and PurePath(name).name == name]
    if not plain or len(plain) != len(names):
        raise CheckpointError(
            f"{index} names no files beside it",
            got=names,
            expected="weight_map: the shard of every tensor",
            fix=DOWNLOAD_AGAIN,
        )
    return tuple(index.parent / name for name in plain)
