"""Loaded graphs: kept between calls, or one stage at a time when memory is short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fam_runtime.backends.base import Backend, Runner

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle


class RunnerPool:
    """Runners of one bundle, loaded when they are first borrowed.

    Args:
        backend: who loads them.
        bundle: whose graphs they are.
        keep: keep a runner when it is given back; otherwise it is closed once nobody holds it.
    """

    def __init__(self, backend: Backend, bundle: Bundle, *, keep: bool = True) -> None:
        self.backend, self.bundle, self.keep = backend, bundle, keep
        self.load_seconds = 0.0
        self._runners: dict[str, Runner] = {}
        self._holders: dict[str, int] = {}

    @contextmanager
    def borrow(self, graph: str) -> Iterator[Runner]:
        """The runner of `graph` for the length of a `with` block."""
        runner = self._runners.get(graph)
        if runner is None:
            started = time.perf_counter()
            runner = self._runners[graph] = self.backend.load(self.bundle, graph)
            self.load_seconds += time.perf_counter() - started
        self._holders[graph] = self._holders.get(graph, 0) + 1
        try:
            yield runner
        finally:
            self._holders[graph] -= 1
            if not self.keep and not self._holders[graph]:
                self._runners.pop(graph, runner).close()

    def close(self) -> None:
        """Close every runner; they are loaded again when they are borrowed again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
