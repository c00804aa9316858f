"""How building engines is shown: one bar per engine, with the time that is left for it."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

SECONDS_BETWEEN_DRAWINGS = 0.1


class EngineProgress(Protocol):
    """Told about every engine that is wanted, in order."""

    def begin(self, title: str, reason: str, expected_seconds: float) -> None:
        """An engine is being built.

        Args:
            title: which.
            reason: in one sentence, why it is not taken from the cache; empty: there was none.
            expected_seconds: how long such a build takes.
        """
        ...

    def update(self, phase: str, share: float | None) -> None:
        """The builder is at `phase`; `share` is what is done (None: it does not say)."""
        ...

    def end(self, *, built: bool) -> None:
        """It is built, or building it was stopped or has failed."""
        ...

    def reused(self, title: str) -> None:
        """An engine was taken from the cache."""
        ...

    def waiting(self, title: str) -> None:
        """Another process is building this engine."""
        ...


class NoEngineProgress:
    """Says nothing."""

    def begin(self, title: str, reason: str, expected_seconds: float) -> None:
        """Ignored."""

    def update(self, phase: str, share: float | None) -> None:
        """Ignored."""

    def end(self, *, built: bool) -> None:
        """Ignored."""

    def reused(self, title: str) -> None:
        """Ignored."""

    def waiting(self, title: str) -> None:
        """Ignored."""


class EngineBars:
    """A bar per engine, and the reasons, on the standard error stream.

    Args:
        say_reused: also name the engines that were in the cache.
    """

    def __init__(self, *, say_reused: bool = False) -> None:
        self._say_reused = say_reused
        self._bar: Any = None
        self._begun, self._expected, self._drawn = 0.0, 0.0, 0.0

    def begin(self, title: str, reason: str, expected_seconds: float) -> None:
        """Print the reason and open a bar."""
        from tqdm import tqdm

        if reason:
            print(reason, file=sys.stderr, flush=True)
        self._begun, self._expected = time.monotonic(), expected_seconds
        self._bar = tqdm(
            total=100,
            desc=f"engine {title:<32}",
            bar_format="{desc} |{bar:20}|{postfix}",
            file=sys.stderr,
        )
        self.update("parsing", None)

    def update(self, phase: str, share: float | None) -> None:
        """Move the bar, by what the builder says or else by the clock."""
        now = time.monotonic()
        if self._bar is None or now - self._drawn < SECONDS_BETWEEN_DRAWINGS:
            return
        self._drawn, taken = now, now - self._begun
        by_clock = taken / max(taken, self._expected)
        self._bar.n = min(round(100 * max(share or 0.0, min(by_clock, 0.99))), 99)
        left = max(self._expected - taken, 0.0)
        rest = f"about {left:.0f} s left" if left >= 1 else "longer than expected"
        self._bar.set_postfix_str(f"{phase.lower()}, {rest}")

    def end(self, *, built: bool) -> None:
        """Fill the bar, or leave it as it stands, and close it."""
        if self._bar is not None:
            seconds = f"{time.monotonic() - self._begun:.1f} s"
            self._bar.n = 100 if built else self._bar.n
            self._bar.set_postfix_str(seconds if built else f"stopped after {seconds}")
            self._bar.close()
            self._bar = None

    def reused(self, title: str) -> None:
        """Name it, if that is wanted."""
        if self._say_reused:
            print(f"engine {title}: in the cache", file=sys.stderr)

    def waiting(self, title: str) -> None:
        """Say what is waited for."""
        print(f"engine {title}: another process is building it; waiting", file=sys.stderr)
