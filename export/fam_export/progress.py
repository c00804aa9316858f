"""How an export tells what it does: one bar per stage."""

from __future__ import annotations

import time
from typing import Protocol

from tqdm import tqdm

from fam_export.stages import Announce, Stage


class Progress(Protocol):
    """Told about every stage, in order."""

    def begin(self, stage: Stage, index: int, count: int) -> Announce:
        """A stage begins; what is returned is told about its parts."""
        ...

    def end(self, *, resumed: bool) -> None:
        """The stage has ended, or was done by an earlier run."""
        ...


class NoProgress:
    """Says nothing."""

    def begin(self, stage: Stage, index: int, count: int) -> Announce:
        """Nothing is shown."""
        return lambda part: None

    def end(self, *, resumed: bool) -> None:
        """Nothing is shown."""


class ProgressBars:
    """A bar per stage on standard error, with its parts and its seconds."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._begun = 0.0

    def begin(self, stage: Stage, index: int, count: int) -> Announce:
        """Open the bar of a stage."""
        width = len(str(count))
        bar = tqdm(
            total=len(stage.parts),
            desc=f"[{index + 1:{width}}/{count}] {stage.title:<32}",
            bar_format="{desc} |{bar:20}|{postfix}",
            leave=True,
        )
        self._bar, self._begun = bar, time.monotonic()
        parts = list(stage.parts)

        def announce(part: str) -> None:
            bar.n = parts.index(part) if part in parts else bar.n
            bar.set_postfix_str(part)

        return announce

    def end(self, *, resumed: bool) -> None:
        """Fill the bar and close it."""
        assert self._bar is not None, "begin() comes first"
        seconds = time.monotonic() - self._begun
        self._bar.n = self._bar.total
        self._bar.set_postfix_str("done before" if resumed else f"{seconds:.1f} s")
        self._bar.close()
        self._bar = None
