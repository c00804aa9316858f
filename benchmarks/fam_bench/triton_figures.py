"""What serving costs: ratios window by window, percentiles over all of them, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

IN_PROCESS = "in process"


@dataclass(frozen=True)
class Contestant:
    """One way to ask for pictures.

    Attributes:
        server: which, or :data:`IN_PROCESS`.
        protocol: `grpc` or `http`; empty without a server.
        concurrency: requests that are on their way at a time.
    """

    server: str
    protocol: str = ""
    concurrency: int = 1


@dataclass(frozen=True)
class Window:
    """Pictures that were asked for in a row.

    Attributes:
        seconds: of each, from asking to having it.
        span_seconds: from asking for the first to having the last.
        cpu_seconds: what the processes that made them took of the processors.
        parts: seconds of a request's parts, on average; see :data:`perf_analyzer.PARTS`.
    """

    seconds: list[float]
    span_seconds: float
    cpu_seconds: float
    parts: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Window) -> Window:
        """Both, as if one had followed the other at once."""
        return Window(
            self.seconds + other.seconds,
            self.span_seconds + other.span_seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.parts,
        )

    @property
    def pictures_per_second(self) -> float:
        """Over the whole window."""
        return len(self.seconds) / self.span_seconds

    @property
    def cpu_seconds_per_picture(self) -> float:
        """On average."""
        return self.cpu_seconds / len(self.seconds)


def figures_of(
    contestant: Contestant, windows: Sequence[Window], beside: Sequence[Window]
) -> dict[str, Any]:
    """Of a contestant and of pictures made one by one in a process, as JSON types.

    Times are seconds. Each ratio is that of a window to what was measured before and after it:
    the median over the rounds, with the least and the largest.

    Args:
        contestant: who was measured.
        windows: of each round.
        beside: for each of these the pictures that a process made before and after.
    """
    seconds = [one for window in windows for one in window.seconds]
    pairs = list(zip(windows, beside, strict=True))
    return {
        **asdict(contestant),
        "min_seconds": min(seconds),
        "p50_seconds": float(np.percentile(seconds, 50)),
        "p95_seconds": float(np.percentile(seconds, 95)),
        "time_ratio": _spread([median(own.seconds) / median(near.seconds) for own, near in pairs]),
        "cpu_ratio": _spread(
            [own.cpu_seconds_per_picture / near.cpu_seconds_per_picture for own, near in pairs]
        ),
        "pictures_per_second": median(window.pictures_per_second for window in windows),
        "rate_ratio": _spread(
            [own.pictures_per_second / near.pictures_per_second for own, near in pairs]
        ),
        "part_seconds": {
            name: median(window.parts[name] for window in windows) for name in windows[0].parts
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def markdown(figures: Sequence[Mapping[str, Any]]) -> str:
    """The tables of docs/triton.md: requests one by one, where their time goes, and two at once."""
    alone = [row for row in figures if row["concurrency"] == 1]
    several = [row for row in figures if row["concurrency"] > 1]
    lines = [
        "| one request at a time | least, s | p50, s | p95, s | time / in process "
        "| CPU time / in process |",
        "|---|---|---|---|---|---|",
        *(
            f"| {_label(row)} | {row['min_seconds']:.3f} "
            f"| {row['p50_seconds']:.3f} | {row['p95_seconds']:.3f} "
            f"| {_shown(row['time_ratio'])} | {_shown(row['cpu_ratio'])} |"
            for row in alone
        ),
        "",
        "| of a request, ms | queue | input | execute | output | network and client |",
        "|---|---|---|---|---|---|",
        *(
            f"| {_label(row)} | {_milliseconds(row['part_seconds'])} |"
            for row in alone
            if row["part_seconds"]
        ),
        "",
        "| several at a time | p50, s | p95, s | pictures/s | pictures/s / in process |",
        "|---|---|---|---|---|",
        *(
            f"| {row['concurrency']}, {_label(row)} | {row['p50_seconds']:.3f} "
            f"| {row['p95_seconds']:.3f} | {row['pictures_per_second']:.3f} "
            f"| {_shown(row['rate_ratio'])} |"
            for row in several
        ),
    ]
    return "\n".join(lines) + "\n"


def _label(row: Mapping[str, Any]) -> str:
    protocol = {"grpc": ", gRPC", "http": ", HTTP"}.get(row["protocol"], "")
    return f"{row['server']}{protocol}"


def _shown(ratio: Mapping[str, float]) -> str:
    """The median, and the least and largest of the rounds."""
    if ratio["min"] == ratio["max"] == 1:
        return "1"
    return f"{ratio['median']:.3f} ({ratio['min']:.3f} – {ratio['max']:.3f})"


def _milliseconds(parts: Mapping[str, float]) -> str:
    around = sum(parts[name] for name in ("network", "client_send", "client_receive"))
    shown = [parts[name] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
    return " | ".join(f"{1e3 * seconds:.1f}" for seconds in (*shown, around))
