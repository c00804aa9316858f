"""How an export tells what it does: one bar per stage, with the time that is left for all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from tqdm import tqdm

from fam_export.preflight import Preflight
from fam_export.stages import Announce, Stage

PRIOR_SECONDS = 30.0
"""How long a run must have taken to weigh as much as the estimate: first stages are short."""


class Progress(Protocol):
    """Told about the preflight, then about every stage, in order."""

    def plan(self, preflight: Preflight) -> None:
        """What the export will need; nothing has been read yet."""
        ...

    def begin(self, stage: Stage, index: int, count: int) -> Announce:
        """A stage begins; what is returned is told about its parts."""
        ...

    def end(self, *, resumed: bool) -> None:
        """The stage has ended, or was done by an earlier run."""
        ...


class NoProgress:
    """Says nothing."""

    def plan(self, preflight: Preflight) -> None:
        """Nothing is shown."""

    def begin(self, stage: Stage, index: int, count: int) -> Announce:
        """Nothing is shown."""
        return lambda part: None

    def end(self, *, resumed: bool) -> None:
        """Nothing is shown."""


class ProgressBars:
    """The preflight on standard output, then a bar per stage on standard error."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._left = TimeLeft({})

    def plan(self, preflight: Preflight) -> None:
        """Print what is needed."""
        print("\n".join(preflight.lines()), flush=True)
        self._left = TimeLeft(preflight.estimate.seconds)

    def begin(self, stage: Stage, index: int, count: int) -> Announce:
        """Open the bar of a stage."""
        width = len(str(count))
        bar = tqdm(
            total=len(stage.parts),
            desc=f"[{index + 1:{width}}/{count}] {stage.title:<32}",
            bar_format="{desc} |{bar:20}|{postfix}",
            leave=True,
        )
        self._bar = bar
        self._left.begin(stage.name)
        parts = list(stage.parts)

        def announce(part: str) -> None:
            bar.n = parts.index(part) if part in parts else bar.n
            bar.set_postfix_str(f"{part}, {self._left.text()}")

        return announce

    def end(self, *, resumed: bool) -> None:
        """Fill the bar and close it."""
        assert self._bar is not None, "begin() comes first"
        seconds = self._left.end(resumed=resumed)
        self._bar.n = self._bar.total
        self._bar.set_postfix_str("done before" if resumed else f"{seconds:.1f} s")
        self._bar.close()
        self._bar = None


class TimeLeft:
    """How long the rest takes: the estimate, scaled by how it has held so far.

    Args:
        seconds: estimated, by stage.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._ahead = dict(seconds)
        self._estimated = self._taken = 0.0
        self._stage, self._begun, self._expected = "", 0.0, 0.0

    def begin(self, stage: str) -> None:
        """The stage of that name begins."""
        self._stage, self._begun = stage, time.monotonic()
        self._expected = self._ahead.pop(stage, 0.0)

    def end(self, *, resumed: bool) -> float:
        """The stage has ended; returns its seconds."""
        seconds = time.monotonic() - self._begun
        if not resumed:
            self._taken += seconds
            self._estimated += self._expected
        return seconds

    def text(self) -> str:
        """``3 min left``."""
        here = max(self._expected * self._pace() - (time.monotonic() - self._begun), 0.0)
        seconds = here + self._pace() * sum(self._ahead.values())
        if seconds < 60:
            return "less than a minute left"
        return f"{round(seconds / 60)} min left"

    def _pace(self) -> float:
        """Seconds taken per second estimated."""
        return (self._taken + PRIOR_SECONDS) / (self._estimated + PRIOR_SECONDS)
