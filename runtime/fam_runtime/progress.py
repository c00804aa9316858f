"""Progress bars, one per stage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fam_runtime.closing import Closing


class Progress(Protocol):
    """Told about stages and their steps.

    An attribute ``visible`` that is false says that nobody looks, so that a GPU may do the steps of
    a stage in one piece; without one, each step is told of when it is done.
    """

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins; the one before has ended."""
        ...

    def advance(self) -> None:
        """A step is done."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class NoProgress:
    """Says nothing."""

    visible = False
    """Nobody sees it."""

    def start(self, stage: str, total: int) -> None:
        """Ignored."""

    def advance(self) -> None:
        """Ignored."""

    def close(self) -> None:
        """Ignored."""


@contextmanager
def hashing_bar(
    total: int | None = None, *, shown: bool = True
) -> Iterator[Callable[[int], object] | None]:
    """A bar of hashed bytes on the standard error stream; silent where that is no terminal.

    Args:
        total: bytes to hash, if that is known.
        shown: False shows nothing, anywhere, and gives None.
    """
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc="checking",
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        leave=False,
        disable=None,
    ) as bar:
        yield bar.update


class ProgressBars(Closing):
    """A tqdm bar per stage on the standard error stream; silent where that is no terminal.

    Args:
        force: draw even where the stream is no terminal.
    """

    def __init__(self, *, force: bool = False) -> None:
        self._force = force
        self._bar: Any = None

    @property
    def visible(self) -> bool:
        """Whether a bar is drawn."""
        return self._force or sys.stderr.isatty()

    def start(self, stage: str, total: int) -> None:
        """Close the bar before and open one called `stage`."""
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(
            total=total,
            desc=stage,
            file=sys.stderr,
            disable=False if self._force else None,
            unit="step",
            dynamic_ncols=True,
        )

    def advance(self) -> None:
        """One step further."""
        if self._bar is not None:
            self._bar.update(1)

    def close(self) -> None:
        """Leave the last bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
