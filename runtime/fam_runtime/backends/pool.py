"""Loaded graphs: kept between calls, or one stage at a time when memory is short."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fam_runtime.backends.base import Backend, Runner
from fam_runtime.errors import OutOfMemory
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
    def borrow(self, graph: str, **sizes: int) -> Iterator[Runner]:
        """The runner of `graph` for the length of a `with` block.

        Args:
            graph: name of its file.
            sizes: of the graph's symbols, such as ``B=1``, that it is to run at; see
                :meth:`Runner.prepare`.
        """
        runner = self._load(graph, sizes)
        self._holders[graph] = self._holders.get(graph, 0) + 1
        try:
            yield runner
        finally:
            self._holders[graph] -= 1
            if not self.keep and not self._holders[graph]:
                self._runners.pop(graph, runner).close()
                give_back_freed_memory()

    def preload(self, graphs: Collection[str], **sizes: int) -> None:
        """Load what a call will need, before it chooses what to do with the memory that is left.

        Between calls, so that what is held for later ones can be given up for it.
        """
        for graph in graphs:
            try:
                self._load(graph, sizes)
            except OutOfMemory:
                if not self.backend.place.make_room():
                    raise
                self._load(graph, sizes)

    def keep_only(self, graphs: Collection[str]) -> None:
        """Close every runner but those of `graphs`."""
        for graph in [graph for graph in self._runners if graph not in graphs]:
            self._runners.pop(graph).close()
        give_back_freed_memory()

    def close(self) -> None:
        """Close every runner, whatever one of them raises; they are loaded again when needed."""
        with ExitStack() as closing:
            while self._runners:
                closing.callback(self._runners.popitem()[1].close)
        give_back_freed_memory()

    def _load(self, graph: str, sizes: Mapping[str, int]) -> Runner:
        started = time.perf_counter()
        runner = self._runners.get(graph)
        if runner is None:
            runner = self._runners[graph] = self.backend.load(self.bundle, graph)
            give_back_freed_memory()
        runner.prepare(sizes)
        self.load_seconds += time.perf_counter() - started
        return runner
