"""Engines are loaded and closed when Python loads and closes its runners."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest

from fam_runtime.backends.pool import RunnerPool
from fam_runtime.bundle import Bundle
from tests.cpp.probe import Probe
from tests.runtime.fake_bundle import write_bundle


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("small") / "bundle"))


class RecordedRunner:
    """A loaded graph that only writes down what happens to it."""

    def __init__(self, graph: str, events: list[str]) -> None:
        self.graph, self.events = graph, events
        events.append(f"load {graph}")

    def prepare(self, sizes: Mapping[str, int]) -> None:
        listed = "".join(f" {symbol}={size}" for symbol, size in sorted(sizes.items()))
        self.events.append(f"prepare {self.graph}{listed}")

    def close(self) -> None:
        self.events.append(f"close {self.graph}")


def python_pool(script: Sequence[Sequence[Any]], *, keep: bool) -> list[str]:
    events: list[str] = []
    backend: Any = SimpleNamespace(load=lambda bundle, graph: RecordedRunner(graph, events))
    nothing: Any = None
    pool = RunnerPool(backend, nothing, keep=keep)
    loans: list[ExitStack] = []
    for what, *arguments in script:
        if what == "borrow":
            loans.append(ExitStack())
            loans[-1].enter_context(pool.borrow(arguments[0], **arguments[1]))
        elif what == "give":
            loans[arguments[0]].close()
        else:
            pool.close()
    for loan in loans:
        loan.close()
    pool.close()
    return events


@pytest.mark.parametrize("keep", [False, True])
def test_a_pool_loads_and_closes_as_in_python(probe: Probe, small: Bundle, keep: bool) -> None:
    rng = random.Random(2)
    for _ in range(40):
        script: list[list[Any]] = []
        open_loans: list[int] = []
        for _ in range(rng.randint(1, 12)):
            if open_loans and rng.random() < 0.5:
                script.append(["give", open_loans.pop(rng.randrange(len(open_loans)))])
            elif not open_loans and rng.random() < 0.3:
                script.append(["close"])
            else:
                open_loans.append(sum(step[0] == "borrow" for step in script))
                sizes = rng.choice([{}, {"B": 1}, {"B": 2, "h": 8}])
                script.append(["borrow", rng.choice("abc"), sizes])
        got = probe.ask("engines.pool", bundle=str(small.root), keep=keep, script=script)
        expected = python_pool(script, keep=keep)
        # What a pool closes at once, it closes in an order of its own.
        assert unordered(got) == unordered(expected), script


def unordered(events: Sequence[str]) -> list[list[str]]:
    """Events in runs of the same kind; those of a run in alphabetical order."""
    runs = groupby(events, key=lambda event: event.split(" ")[0])
    return [sorted(run) for _, run in runs]


def test_a_pool_after_a_failure(probe: Probe, small: Bundle) -> None:
    def ask(keep: bool, *script: Sequence[Any]) -> list[str]:
        events: list[str] = probe.ask(
            "engines.pool", bundle=str(small.root), keep=keep, script=script
        )
        return events

    unloaded, unprepared = ["borrow", "unloaded", {}], ["borrow", "unprepared", {}]
    assert ask(True, unloaded, unloaded) == ["it does not fit"] * 2
    failed = ["load unprepared", "prepare unprepared", "close unprepared", "it cannot be prepared"]
    assert ask(False, unprepared, unprepared) == failed * 2
    prepared = ["prepare unprepared", "it cannot be prepared"]
    assert ask(True, unprepared, unprepared) == [
        "load unprepared",
        *prepared,
        *prepared,
        "close unprepared",
    ]
    assert ask(True, ["borrow", "a", {}], ["close"], ["give", 0], ["close"]) == [
        "load a",
        "prepare a",
        "in use",
        "close a",
    ]
