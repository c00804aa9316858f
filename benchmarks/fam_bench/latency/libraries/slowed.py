"""A backend made slower on purpose, to see that a comparison of two results notices it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fam_runtime.backends.base import Backend, Runner, Value, Values

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle


class SlowedRunner(Runner):
    """A runner that waits after every run.

    Args:
        runner: does the work, on the host: on a device nothing is done when it returns.
        factor: times as long as a run takes by itself.
    """

    def __init__(self, runner: Runner, factor: float) -> None:
        super().__init__(runner.graph, runner.spec)
        self._runner, self._factor = runner, factor

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """See :meth:`Runner.prepare`."""
        self._runner.prepare(sizes)

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """Run, and wait in proportion."""
        begun = time.perf_counter()
        values = self._runner.run(feeds, outputs)
        time.sleep((self._factor - 1) * (time.perf_counter() - begun))
        return values

    def close_impl(self) -> None:
        """Close the runner."""
        self._runner.close()


class SlowedBackend(Backend):
    """A backend of the host whose runners wait.

    Args:
        backend: loads the graphs.
        factor: see :class:`SlowedRunner`.
    """

    def __init__(self, backend: Backend, factor: float) -> None:
        self.name, self.place = backend.name, backend.place
        self._backend, self._factor = backend, factor

    def load(self, bundle: Bundle, graph: str) -> Runner:
        """Load a graph of `bundle`."""
        return SlowedRunner(self._backend.load(bundle, graph), self._factor)

    def describe(self) -> dict[str, str]:
        """The backend's own words."""
        return self._backend.describe()

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()
