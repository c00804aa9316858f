"""The lines that people read: per backend and per thing compared, the worst figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fam_export.verify.figures import Figure
from fam_export.verify.tolerances import AT_LEAST

if TYPE_CHECKING:
    from fam_export.verify.report import Comparison, ContestantReport, VerifyReport

HEADER = ("backend", "target", "compared", "arithmetic", "worst of all (tolerance)", "verdict")

FORMATS: Mapping[Figure, tuple[str, str, str]] = {
    "relative_rms": ("rms", "{:.1e}", "{:.0e}"),
    "relative_max": ("max", "{:.1e}", "{:.0e}"),
    "max_absolute": ("absolute", "{:.1e}", "{:.0e}"),
    "psnr_db": ("PSNR", "{:.0f} dB", "{:.0f}"),
    "max_levels": ("colours", "{:.0f} of 255", "{:.0f}"),
}
"""What a figure is called, and how it and its bound are written."""


def table_of(report: VerifyReport) -> list[str]:
    """The heading, a row per comparison (all steps of a stage in one), and reasons."""
    return [*_heading(report), "", *_aligned([HEADER, *_rows(report)]), *_reasons(report)]


def _heading(report: VerifyReport) -> Iterator[str]:
    described = " ".join(report.reference.values())
    reference = f"{described}, in fp32" if described else "not run"
    yield f"{report.bundle['name']}: {', '.join(report.targets)}; reference: {reference}"
    yield (
        f"{report.task['steps']} steps per stage, seed {report.task['seed']}; every step begins "
        "where the reference's began; errors of steps are relative to what the step changes"
    )


def _rows(report: VerifyReport) -> Iterator[tuple[str, ...]]:
    for contestant in report.contestants:
        for group in _grouped(contestant.comparisons):
            yield _row(contestant, group)
        if contestant.verdict in ("not run", "stopped") or not contestant.comparisons:
            yield (contestant.choice.label, "-", "-", "-", "-", contestant.verdict)


def _row(contestant: ContestantReport, group: Sequence[Comparison]) -> tuple[str, ...]:
    first, bounds = group[0], group[0].bounds
    worst = max(group, key=lambda comparison: comparison.share)
    failed = sum(bool(comparison.exceeded) for comparison in group)
    where = "" if worst.step is None else f", worst at step {worst.step}"
    figures = [_figure(figure, group, bounds.get(figure)) for figure in first.figures]
    return (
        contestant.choice.label,
        first.target or "-",
        first.what if first.step is None else f"{len(group)} steps of the {first.what}",
        first.arithmetic,
        f"{', '.join(figures)}{where}",
        f"{failed} of {len(group)} failed" if failed else "ok",
    )


def _figure(figure: Figure, group: Sequence[Comparison], bound: float | None) -> str:
    name, form, form_of_bound = FORMATS[figure]
    values = [comparison.figures[figure] for comparison in group]
    worst = min(values) if figure in AT_LEAST else max(values)
    if bound is None:
        return f"{name} {form.format(worst)}"
    sign = "≥" if figure in AT_LEAST else "≤"
    return f"{name} {form.format(worst)} ({sign} {form_of_bound.format(bound)})"


def _grouped(comparisons: Sequence[Comparison]) -> Iterator[list[Comparison]]:
    """Comparisons of one thing, in the order of the first of each."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault((one.kind, one.target, one.what), []).append(one)
    yield from groups.values()


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _reasons(report: VerifyReport) -> Iterator[str]:
    for contestant in report.contestants:
        if contestant.stopped is not None:
            yield f"{contestant.choice.label}: {contestant.verdict}: {contestant.stopped}"
