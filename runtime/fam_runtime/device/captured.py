"""Steps captured as CUDA graphs, so that a later call replays them without work for the host."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.device.api import DeviceApi
    from fam_runtime.device.runner import DeviceRunner
    from fam_runtime.device.tensor import DeviceTensor

KEPT_STAGES = 8
"""Stages whose graphs are kept: two of each call, for four kinds of calls."""

CAPTURE_AT_USE = 2
"""Capturing takes longer than launching a stage once: a single picture goes without."""
REMEMBERED_STAGES = 64
"""Stages whose uses are counted."""


class CudaGraphsUnavailable(UserWarning):
    """Steps could not be captured; they are put on the stream one by one, as before."""


@dataclass(frozen=True, eq=False)
class Enqueue:
    """One run of a graph on given memory."""

    runner: DeviceRunner
    values: Mapping[str, DeviceTensor]

    def __call__(self) -> None:
        """Put it on the stream."""
        self.runner.device_graph.enqueue(self.values)

    @property
    def key(self) -> Hashable:
        """Equal where the work is the same: graph, addresses and shapes."""
        bound = tuple((name, v.address, v.shape) for name, v in sorted(self.values.items()))
        return id(self.runner), bound


StepWork = Sequence[Enqueue]


@dataclass(frozen=True, eq=False)
class _Captured:
    graphs: list[Any]
    runners: frozenset[DeviceRunner]
    addresses: frozenset[int]


class CapturedStages:
    """Graphs by what they do; the oldest go.

    Args:
        api: the device.
        at_use: a stage is captured when it comes for the so-manieth time; 0: never.
    """

    def __init__(self, api: DeviceApi, *, at_use: int) -> None:
        self._api, self._at_use = api, at_use
        self._stages: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._known: set[int] = set()
        self._uses: OrderedDict[int, int] = OrderedDict()

    def graphs(self, steps: Sequence[StepWork], *, in_one: bool) -> list[Any] | None:
        """A graph per step, or one graph of all steps; None: they are not to be captured.

        What comes often enough is captured, after the first step was done once without: libraries
        finish their preparation in a run. A step may be done twice, since it writes to nothing that
        it reads.

        Args:
            steps: the work of each step.
            in_one: one graph of all of them.
        """
        pieces = [[work for step in steps for work in step]] if in_one else steps
        key = tuple(tuple(work.key for work in piece) for piece in pieces)
        if key in self._stages:
            self._stages.move_to_end(key)
            return self._stages[key].graphs
        if not self._capturable(steps) or self._comes_too_seldom(key):
            return None
        for work in steps[0]:
            work()
        if not self._capturable(steps):  # which some libraries know only now
            return None
        graphs = self._capture_all(pieces)
        if graphs is not None:
            self._keep(key, graphs, [work for step in steps for work in step])
        return graphs

    def forget_addresses(self, ranges: Sequence[range]) -> None:
        """Destroy the graphs that work on memory that was given up."""
        self._forget(lambda c: any(a in span for span in ranges for a in c.addresses))

    def close(self) -> None:
        """Destroy every graph."""
        self._forget(lambda captured: True)

    def _comes_too_seldom(self, key: Hashable) -> bool:
        """Count a use; whether there were too few, as far as they are remembered."""
        digest = hash(key)
        uses = self._uses.pop(digest, 0) + 1
        self._uses[digest] = uses
        if len(self._uses) > REMEMBERED_STAGES:
            self._uses.popitem(last=False)
        return uses < self._at_use

    def _capturable(self, steps: Sequence[StepWork]) -> bool:
        return self._at_use > 0 and all(
            work.runner.device_graph.capturable for step in steps for work in step
        )

    def _capture_all(self, pieces: Sequence[StepWork]) -> list[Any] | None:
        graphs: list[Any] = []
        try:
            for piece in pieces:
                graphs.append(self._capture(piece))
        except BackendError as error:
            self._destroy(graphs)
            self._at_use = 0
            warnings.warn(
                f"the steps could not be captured as a CUDA graph, and run without: {error}",
                CudaGraphsUnavailable,
                stacklevel=2,
            )
            return None
        return graphs

    def _capture(self, piece: StepWork) -> Any:
        self._api.begin_capture()
        try:
            for work in piece:
                work()
        except BaseException:
            self._abandon_capture()
            raise
        return self._api.end_capture()

    def _abandon_capture(self) -> None:
        try:
            graph = self._api.end_capture()
        except BackendError:
            return  # the stream works again all the same
        self._api.destroy_graph(graph)

    def _keep(self, key: Hashable, graphs: list[Any], works: StepWork) -> None:
        runners = frozenset(work.runner for work in works)
        addresses = frozenset(v.address for work in works for v in work.values.values())
        self._stages[key] = _Captured(graphs, runners, addresses)
        for runner in runners:
            if id(runner) not in self._known:
                self._known.add(id(runner))
                runner.before_closing(partial(self._forget_runner, runner))
        while len(self._stages) > KEPT_STAGES:
            self._destroy(self._stages.popitem(last=False)[1].graphs)

    def _forget_runner(self, runner: DeviceRunner) -> None:
        self._known.discard(id(runner))
        self._forget(lambda captured: runner in captured.runners)

    def _forget(self, which: Callable[[_Captured], bool]) -> None:
        for key in [key for key, captured in self._stages.items() if which(captured)]:
            self._destroy(self._stages.pop(key).graphs)

    def _destroy(self, graphs: Sequence[Any]) -> None:
        if graphs:
            self._api.synchronize()  # none of them may be at work
        for graph in graphs:
            self._api.destroy_graph(graph)
