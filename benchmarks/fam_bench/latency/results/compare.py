"""Two results files of fam-bench side by side: what became slower, larger or less exact.

Rows are the same if contestant, kind and scale are. Ratios between rows and the costs of parts
follow from the times and are not compared: one cause is reported once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from fam_bench.latency.contestants import BY_NAME, EAGER
from fam_bench.latency.quiet import BUSY_SHARE
from fam_bench.latency.results.differences import differences
from fam_bench.latency.results.results_file import read_results
from fam_runtime.errors import InvalidRequest

DEFAULT_TOLERANCE = 0.10
"""A time counts as changed beyond this even where its rounds agree better: they share one run, and
what sets it apart from the next, such as where its memory lies, is not in their spread."""

MEMORY_TOLERANCE = 0.05
"""As much as the design lets a target step take over plain inference."""

MEMORY_FLOOR_BYTES = 4_000_000
"""Smaller changes are the allocator's: peaks of 12 runs of one picture of the demo were within
0.4 MB of each other."""

PSNR_TOLERANCE_DB = 3.0
"""Twice the error's power; less is another order of additions, or another kernel for them."""

PSNR_VISIBLE_DB = 60.0
"""Above it the RMS error is below a thousandth of the peak, a quarter of a level of 8 bits."""

PSNR_PRECISION_DB = 20.0
"""Ten times the error counts even if nobody sees it: float32 that became TF32 or float16 loses more
than this, and would be reported as faster only."""

PSNR_ROUNDING_DB = 120.0
"""Above it two results differ by float32's rounding or not at all, which is equally good."""

MIN_ROUNDS = 5
"""With fewer rounds their least and largest hold the median in less than 94 of 100 cases."""

YARDSTICK = EAGER
"""No change of ours makes it slower: if it is, the machine may be, or PyTorch."""

Quantity = Literal["time", "host memory", "device memory", "PSNR"]
Verdict = Literal["worse", "better", "same"]
Row = Mapping[str, Any]
Key = tuple[str, str, float]


@dataclass(frozen=True)
class Change:
    """One figure of a row in both files.

    Attributes:
        title: of the contestant.
        kind, scale: of the row.
        quantity: which figure.
        before, after: in seconds, bytes or dB.
        change: after over before; for PSNR the difference in dB.
        limit: `change` counts beyond this ratio, or loss in dB.
        verdict: on the second file.
    """

    title: str
    kind: str
    scale: float
    quantity: Quantity
    before: float
    after: float
    change: float
    limit: float
    verdict: Verdict


@dataclass(frozen=True)
class Alone:
    """A row that only one file has.

    Attributes:
        title, kind, scale: of the row.
        reason: why the other file does not have it; empty if nobody asked for it.
    """

    title: str
    kind: str
    scale: float
    reason: str


@dataclass(frozen=True)
class Comparison:
    """What two results files say about each other.

    Attributes:
        made: which two runs they are, in words.
        notes: what else differs than the program, in words.
        rows: how many are in both.
        changes: every figure that is in both, the same ones included.
        gone: rows of the first file only.
        appeared: rows of the second file only.
    """

    made: str
    notes: list[str]
    rows: int
    changes: list[Change]
    gone: list[Alone]
    appeared: list[Alone]

    @property
    def regressed(self) -> bool:
        """Whether a figure is worse, or a row was asked for again and could not be measured."""
        return any(change.verdict == "worse" for change in self.changes) or any(
            row.reason for row in self.gone
        )


def compare_files(before: Path, after: Path, tolerance: float = DEFAULT_TOLERANCE) -> Comparison:
    """What changed from the file `before` to the file `after`; see :func:`compare`.

    Raises:
        InvalidRequest: one is no result of fam-bench, or as :func:`compare`.
    """
    return compare(read_results(before), read_results(after), tolerance)


def compare(a: Row, b: Row, tolerance: float = DEFAULT_TOLERANCE) -> Comparison:
    """What changed from the results `a` to the results `b`.

    A time changed if its ratio is beyond ``1 + max(tolerance, √(spread of a² + spread of b²))``, or
    below one over that. The two runs are independent, so the squares are added. With the sum of the
    spreads itself a slowdown of 20 % was missed in most rows of runs with 11 rounds; with this it
    was found, and runs without one differed in no row (docs/performance.md).

    Args:
        a, b: contents of results files that :func:`checked_results` let pass.
        tolerance: relative change of a time that is accepted.

    Raises:
        InvalidRequest: the tolerance is negative, or the two have nothing in common.
    """
    if not 0 <= tolerance < float("inf"):
        raise InvalidRequest("the tolerance cannot be used", got=tolerance, expected="0 or more")
    first, second = _rows(a), _rows(b)
    pairs = [(row, second[key]) for key, row in first.items() if key in second]
    gone = _alone(first, second, b)
    if not pairs and not any(row.reason for row in gone):
        raise InvalidRequest(
            "the two results have nothing in common",
            got=f"{len(first)} and {len(second)} rows, none of them in both",
            expected="rows of the same contestants, kinds and scales",
            fix="measure again with the --contestants and --scale of the first",
        )
    return Comparison(
        made=f"From {a['made_by']} of {a['when']} to {b['made_by']} of {b['when']}",
        notes=[*differences(a, b), *_notes_on_others(a, b), *_notes_on_rows(pairs)],
        rows=len(pairs),
        changes=[change for pair in pairs for change in _changes(*pair, tolerance)],
        gone=gone,
        appeared=_alone(second, first, a),
    )


def _rows(document: Row) -> dict[Key, Row]:
    return {_key(row): row for row in document["figures"]}


def _key(row: Row) -> Key:
    return row["contestant"], row["kind"], float(row["scale"])


def _alone(own: Mapping[Key, Row], other: Mapping[Key, Row], document: Row) -> list[Alone]:
    """Rows of `own` that are not in `other`, with the reasons in the other's document."""
    reasons = {_key(row): row["reason"] for row in document["not_run"]}
    return [
        Alone(row["title"], row["kind"], row["scale"], reasons.get(key, ""))
        for key, row in own.items()
        if key not in other
    ]


def _changes(a: Row, b: Row, tolerance: float) -> Iterator[Change]:
    yield _time_change(a, b, tolerance)
    memories: tuple[tuple[Quantity, str], ...] = (
        ("host memory", "peak_host_bytes"),
        ("device memory", "peak_device_bytes"),
    )
    for quantity, name in memories:
        # A peak of 0 is one that was not measured, or had nothing to grow by.
        if a.get(name) and b.get(name):
            yield _memory_change(a, b, quantity, name)
    if _same_reference(a, b):
        yield _psnr_change(a, b)


def _time_change(a: Row, b: Row, tolerance: float) -> Change:
    before, after = a["median_seconds"], b["median_seconds"]
    ratio = after / before
    limit = 1 + max(tolerance, math.hypot(a.get("spread") or 0.0, b.get("spread") or 0.0))
    verdict = _verdict(worse=ratio > limit, better=ratio < 1 / limit)
    return _change(b, "time", before, after, ratio, limit, verdict)


def _memory_change(a: Row, b: Row, quantity: Quantity, name: str) -> Change:
    before, after = a[name], b[name]
    ratio, limit = after / before, 1 + MEMORY_TOLERANCE
    much = abs(after - before) > MEMORY_FLOOR_BYTES
    verdict = _verdict(worse=much and ratio > limit, better=much and ratio < 1 / limit)
    return _change(b, quantity, before, after, ratio, limit, verdict)


def _psnr_change(a: Row, b: Row) -> Change:
    before, after = a["fidelity"]["psnr_db"], b["fidelity"]["psnr_db"]
    limit = PSNR_TOLERANCE_DB if min(before, after) < PSNR_VISIBLE_DB else PSNR_PRECISION_DB
    gain = min(after, PSNR_ROUNDING_DB) - min(before, PSNR_ROUNDING_DB)
    verdict = _verdict(worse=gain < -limit, better=gain > limit)
    return _change(b, "PSNR", before, after, after - before, limit, verdict)


def _change(
    row: Row,
    quantity: Quantity,
    before: float,
    after: float,
    change: float,
    limit: float,
    verdict: Verdict,
) -> Change:
    return Change(
        row["title"],
        row["kind"],
        row["scale"],
        quantity,
        before,
        after,
        change,
        limit,
        verdict,
    )


def _verdict(*, worse: bool, better: bool) -> Verdict:
    return "worse" if worse else "better" if better else "same"


def _same_reference(a: Row, b: Row) -> bool:
    own, other = a.get("fidelity"), b.get("fidelity")
    return bool(own and other and own["against"] == other["against"])


def _notes_on_others(a: Row, b: Row) -> list[str]:
    """Whether other programs were at work meanwhile."""
    shares = {"first": a.get("others_busy") or 0.0, "second": b.get("others_busy") or 0.0}
    return [
        f"other programs took {100 * share:.0f} % of the processors during the {which} run: its "
        "times do not repeat"
        for which, share in shares.items()
        if share > BUSY_SHARE
    ]


def _notes_on_rows(pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    """What the comparing of the rows themselves rests on, where it is not what one expects."""
    notes = []
    others = [
        b["median_seconds"] / a["median_seconds"] for a, b in pairs if a["contestant"] == YARDSTICK
    ]
    if others and abs(median(others) - 1) > DEFAULT_TOLERANCE:
        notes.append(
            f"machine: {BY_NAME[YARDSTICK].title} took {median(others):.2f} times as long in the "
            "second run, which may be the machine's doing"
        )
    few = sum(min(len(a["round_seconds"]), len(b["round_seconds"])) < MIN_ROUNDS for a, b in pairs)
    if few:
        notes.append(
            f"rounds: {few} rows have fewer than {MIN_ROUNDS} in one of the files, too few to know "
            "their spread by; a change of theirs may be chance"
        )
    judged_twice = sum(_same_reference(a, b) for a, b in pairs)
    judged = sum(bool(a.get("fidelity") or b.get("fidelity")) for a, b in pairs)
    if judged > judged_twice:
        notes.append(
            f"PSNR: not compared for {judged - judged_twice} rows, which have another reference, "
            "or none, in one of the files"
        )
    return notes
