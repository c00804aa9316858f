"""Loaded graphs: kept between calls, or one stage at a time when memory is short."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fam_runtime.backends.base import Backend, Runner
from fam_runtime.free_memory import give_back_freed_memory

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
            give_back_freed_memory()
            self.load_seconds += time.perf_counter() - started
        self._holders[graph] = self._holders.get(graph, 0) + 1
        try:
            yield runner
        finally:
            self._holders[graph] -= 1
            if not self.keep and not self._holders[graph]:
                self._runners.pop(graph, runner).close()
                give_back_freed_memory()

    def keep_only(self, graphs: Collection[str]) -> None:
        """Close every runner but those of `graphs`."""
        for graph in [graph for graph in self._runners if graph not in graphs]:
            self._runners.pop(graph).close()
        give_back_freed_memory()

    def close(self) -> None:
        """Close every runner; they are loaded again when they are borrowed again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
        give_back_freed_memory()
