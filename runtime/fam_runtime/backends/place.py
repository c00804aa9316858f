"""Where a backend computes: how values get there and back, and how a stage is driven there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from fam_runtime.free_memory import free_memory_bytes
from fam_runtime.stage_loop import HostStageLoop, StageLoop

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array, Value


class Place(ABC):
    """The host's memory, or a device's.

    Attributes:
        holds_graphs: loaded graphs take of the memory that :meth:`free_memory_bytes` counts, and
            are there for a call as a whole.
    """

    holds_graphs: bool = False

    @abstractmethod
    def upload(self, array: Array) -> Value:
        """Bring an array here."""

    @abstractmethod
    def download(self, value: Value) -> Array:
        """Bring a value back as an array of the same shape and dtype."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: str) -> Value:
        """A value full of zeros; `dtype` as in the manifest."""

    @abstractmethod
    def free_memory_bytes(self) -> int | None:
        """Bytes that values can take here; None where that is not known."""

    def make_room(self) -> bool:
        """Give up what is held for calls to come, between two calls; whether there was a way."""
        return False

    @abstractmethod
    def stage_loop(self) -> StageLoop:
        """Who drives a stage here."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held here; it is taken again when it is needed again."""


class HostPlace(Place):
    """Values are NumPy arrays."""

    def upload(self, array: Array) -> Value:
        """The array itself, made contiguous."""
        # ascontiguousarray makes a scalar a vector of one, which the graph refuses.
        return np.ascontiguousarray(array).reshape(array.shape)

    def download(self, value: Value) -> Array:
        """The array itself."""
        return np.asarray(value)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Value:
        """An array."""
        return np.zeros(shape, np.dtype(dtype))

    def free_memory_bytes(self) -> int | None:
        """What the system and the process's container leave."""
        return free_memory_bytes()

    def stage_loop(self) -> StageLoop:
        """The loop that feeds every step by hand."""
        return HostStageLoop(self)

    def close(self) -> None:
        """Nothing is held."""
