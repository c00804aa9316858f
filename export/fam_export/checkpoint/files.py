"""What every layout of a checkpoint offers: configurations, stored tensors, contents to hash."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fam_export.checkpoint.configuration import Configuration
from fam_export.checkpoint.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import nn


class CheckpointFiles(ABC):
    """The files of a checkpoint in one layout."""

    layout: str
    """What the layout is called: ``diffusers folder``, ``single file``."""

    @property
    @abstractmethod
    def configuration(self) -> Configuration:
        """The configurations that belong to the weights."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed about the checkpoint, for the user to read."""
        return ()

    @property
    @abstractmethod
    def root(self) -> Path:
        """The folder or file that the weights are in."""

    @abstractmethod
    def tensors(self, part: str, module: nn.Module) -> Mapping[str, StoredTensor]:
        """What is stored for `part`, under diffusers' names, as they are on the disk.

        `module` is the part without weights; it says what a converter has to know.
        """

    @abstractmethod
    def validate(self) -> None:
        """Look at every file without reading weights; raises CheckpointError."""

    @abstractmethod
    def contents(self) -> Iterator[bytes]:
        """Bytes that identify everything that is read: names, and hashes of contents."""
