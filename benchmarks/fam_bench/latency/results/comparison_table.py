"""A comparison of two results as text: what else differs, and a table of what changed."""

from __future__ import annotations

from collections.abc import Sequence

from fam_bench.latency.results.compare import Alone, Change, Comparison

_WORDS = {
    "time": {"worse": "slower", "better": "faster"},
    "host memory": {"worse": "more", "better": "less"},
    "device memory": {"worse": "more", "better": "less"},
    "PSNR": {"worse": "less exact", "better": "more exact"},
}

_HEAD = ("", "contestant", "what", "figure", "before", "after", "change", "limit")

_ABOUT = "*change*: after / before. *limit*: what changes less counts as the same."


def markdown(comparison: Comparison, all_rows: bool = False) -> str:
    """Notes, the number of changes, and a table of them, the worse ones first.

    Args:
        comparison: of two results.
        all_rows: show figures that stayed the same, too.
    """
    order = {"worse": 0, "better": 1, "same": 2}
    shown = [change for change in comparison.changes if all_rows or change.verdict != "same"]
    shown.sort(key=lambda change: order[change.verdict])
    lines = [comparison.made, ""]
    if comparison.notes:
        lines += [*(f"- {_escaped(note)}" for note in comparison.notes), ""]
    lines += [_summary(comparison), ""]
    if shown:
        lines += [*_table(_HEAD, [_cells(change) for change in shown]), "", _ABOUT, ""]
    for title, alone in (("gone", comparison.gone), ("new", comparison.appeared)):
        if alone:
            head = (title, "what", "why the other run does not have it")
            lines += [*_table(head, [_alone_cells(row) for row in alone]), ""]
    return "\n".join(lines)


def _summary(comparison: Comparison) -> str:
    verdicts = [change.verdict for change in comparison.changes]
    changed = {
        (change.title, change.kind, change.scale)
        for change in comparison.changes
        if change.verdict != "same"
    }
    return (
        f"{comparison.rows} rows in both: {comparison.rows - len(changed)} unchanged; "
        f"{verdicts.count('worse')} figures worse, {verdicts.count('better')} better."
    )


def _cells(change: Change) -> tuple[str, ...]:
    if change.quantity == "PSNR":
        figures = [f"{change.before:.1f} dB", f"{change.after:.1f} dB"]
        figures += [f"{change.change:+.1f} dB", f"{change.limit:g} dB"]
    else:
        show = _duration if change.quantity == "time" else _megabytes
        figures = [show(change.before), show(change.after)]
        figures += [f"{change.change:.3f}", f"{change.limit:.2f}"]
    verdict = _WORDS[change.quantity].get(change.verdict, change.verdict)
    return (verdict, change.title, _what(change), change.quantity, *figures)


def _alone_cells(row: Alone) -> tuple[str, ...]:
    return (row.title, _what(row), row.reason or "it was not asked for")


def _what(row: Change | Alone) -> str:
    return f"{row.kind} {row.scale:g}x"


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / 1e-6:.4g} µs"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in a terminal, too."""
    lines = [list(head), *([_escaped(cell) for cell in row] for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    return [padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]]


def _escaped(text: str) -> str:
    """On one line, and no end of a cell."""
    return " ".join(text.split()).replace("|", "\\|")
