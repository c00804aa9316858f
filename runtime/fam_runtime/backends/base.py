"""What every backend offers: graphs of a bundle as runners, and values they pass to each other.

A **value** is a tensor in the place where the backend computes: a NumPy array, or memory of a
device. Samplers pass values from one runner to the next without looking at them, so that latents
and native attention never leave the device; :meth:`Backend.upload` and :meth:`Backend.download` are
the only ways in and out. Every runner also accepts NumPy arrays, for scalars and noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fam_runtime.backends.checks import check_feeds, check_output_names
from fam_runtime.backends.place import HostPlace, Place
from fam_runtime.closing import Closing
from fam_runtime.errors import BackendError, InvalidRequest

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, GraphSpec
    from fam_runtime.stage_loop import StageLoop

Array = npt.NDArray[Any]


class Value(Protocol):
    """A tensor of some backend; only its shape and dtype are anybody else's business."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        ...

    @property
    def dtype(self) -> np.dtype[Any] | str:
        """Element type; the manifest's name for it where NumPy has none (bfloat16)."""
        ...


Values = Mapping[str, Value]


VAE_SAMPLES = 64 * 64
"""Latent samples that the figures of the VAE's graphs are about, here and in the manifest."""


@dataclass(frozen=True)
class GraphMemory:
    """Bytes of the process that a graph takes on the host.

    Attributes:
        own_bytes: while it is loaded.
        loading_bytes: instead of these, at most, while it is being loaded.
        shared_bytes: mapped weights besides, which the UNet graphs have in common.
        running_bytes: on top, while it runs for one picture (the VAE's graphs: for
            :data:`VAE_SAMPLES`).
    """

    own_bytes: int
    loading_bytes: int
    shared_bytes: int
    running_bytes: int


class Runner(Closing):
    """One loaded graph. Backends implement :meth:`infer_impl` and :meth:`close_impl`.

    Args:
        graph: name of the graph's file in the bundle.
        spec: its inputs and outputs, from the manifest.
    """

    def __init__(self, graph: str, spec: GraphSpec) -> None:
        self.graph, self.spec = graph, spec
        self._closed = False

    def run(self, feeds: Values, outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """Compute `outputs` (None: all of them) from `feeds`.

        The values that come back belong to the caller: later runs do not overwrite them.

        Args:
            feeds: one value per input of the graph, by name.
            outputs: names of the outputs that are wanted; what only others need may be skipped.

        Raises:
            BackendError: a feed is missing, unknown, of another dtype or of a shape that does not
                fit the graph; an output is unknown; the runner is closed; or the library failed.
        """
        if self._closed:
            raise BackendError(
                f"{self.graph} was closed", expected="an open runner", fix="load the graph again"
            )
        check_feeds(self.graph, self.spec.inputs, feeds)
        available = tuple(output.name for output in self.spec.outputs)
        wanted = available if outputs is None else tuple(outputs)
        check_output_names(self.graph, wanted, available)
        return self.infer_impl(feeds, wanted)

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Have what runs at `sizes` of the symbols ready, where a library has one for each.

        Without it, the first run at such sizes takes the time.

        Raises:
            BackendError: it cannot be made.
        """
        return

    def close(self) -> None:
        """Free what the graph holds; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self.close_impl()

    @abstractmethod
    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Run the graph on checked feeds and return exactly `outputs`."""

    @abstractmethod
    def close_impl(self) -> None:
        """Free the session or engine."""


class Backend(ABC):
    """An inference library on one device."""

    name: str
    """What `--backend` calls it."""

    place: Place = HostPlace()
    """Where its values are."""

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse at once a bundle that this backend cannot run; by default it runs every one.

        Raises:
            BackendError: it cannot.
        """
        return

    @abstractmethod
    def load(self, bundle: Bundle, graph: str) -> Runner:
        """Load a graph of `bundle` by the name of its file.

        Raises:
            BackendError: the library is missing or refuses the graph.
        """

    def memory_of(self, bundle: Bundle, graph: str, *, low_memory: bool) -> GraphMemory:
        """What `graph` takes, estimated from the manifest and the files' outlines.

        Raises:
            InvalidRequest: this backend does not compute in the host's memory.
        """
        raise InvalidRequest(
            "a memory budget is for graphs that run in the host's memory",
            got=", ".join(self.describe().values()),
            expected="the onnxruntime backend on the CPU",
            fix="leave the memory budget out",
        )

    def use_low_memory(self, low_memory: bool) -> None:
        """Trade time for memory in graphs that are loaded from now on; here without effect."""
        return

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Name, library version and device, for a picture's settings."""

    def upload(self, array: Array) -> Value:
        """Bring an array to where the backend computes; the array itself where that is the host."""
        return self.place.upload(array)

    def download(self, value: Value) -> Array:
        """Bring a value back as an array of the same shape and dtype; the caller must not write."""
        return self.place.download(value)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Value:
        """A value full of zeros."""
        return self.place.zeros(shape, dtype)

    def stage_loop(self) -> StageLoop:
        """Who drives the steps of a stage."""
        return self.place.stage_loop()

    def close(self) -> None:
        """Free what is shared between runners; runners are closed by who loaded them."""
        self.place.close()
