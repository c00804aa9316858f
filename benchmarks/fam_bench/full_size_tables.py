"""Markdown of the full-size measurements, for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping

from fam_bench.export_limits import ExportFigures
from fam_bench.export_run import ExportRun
from fam_bench.full_size_step import StepResult

GB = 1e9


def export_tables(label: str, figures: ExportFigures, done: ExportRun) -> str:
    """A row of figures, and the seconds of the stages."""
    memory = done.memory
    lines = [
        "| export | UNet weights | peak of the export | of that allocated / mapped "
        "| peak of the numeric check | UNet in the bundle | bundle | seconds |",
        "|---|---|---|---|---|---|---|---|",
        f"| {label} | {gigabytes(figures.weights)} "
        f"| {gigabytes(figures.peak)}, {figures.memory_ratio:.2f}x "
        f"| {gigabytes(memory.anonymous)} / {gigabytes(memory.file_backed)} "
        f"| {gigabytes(memory.check)} "
        f"| {gigabytes(figures.graphs)}, {figures.graph_ratio:.3f}x "
        f"| {gigabytes(figures.bundle)} | {done.seconds:.0f} |",
        "",
        "| stage | seconds |",
        "|---|---|",
    ]
    lines += [f"| {stage['name']} | {stage['seconds']:.1f} |" for stage in done.stages]
    return "\n".join(lines) + "\n"


def format_table(hashes: Mapping[str, Mapping[str, str]]) -> str:
    """A row of hashes per form of the checkpoint."""
    files = list(next(iter(hashes.values())))
    lines = [f"| checkpoint | {' | '.join(files)} |", "|---" * (len(files) + 1) + "|"]
    for form, own in hashes.items():
        lines.append(f"| {form} | {' | '.join(own[file] for file in files)} |")
    return "\n".join(lines) + "\n"


def step_table(kind: str, result: StepResult) -> str:
    """Both sides, and the errors: all of the results, the worst of the taps."""
    lines = ["| step | load, s | step, s | peak |", "|---|---|---|---|"]
    lines += [
        f"| {kind}, {side.name} | {side.load_seconds:.1f} | {side.step_seconds:.1f} "
        f"| {gigabytes(side.peak_bytes)} |"
        for side in result.sides
    ]
    lines += ["", "| output | largest error / largest value | RMS error / RMS |", "|---|---|---|"]
    taps = [name for name in result.errors if name.startswith("attention_")]
    for name in (name for name in result.errors if name not in taps):
        lines.append(f"| {name} | {result.errors[name]:.1e} | {result.rms_errors[name]:.1e} |")
    if taps:
        worst = max(result.errors[name] for name in taps)
        rms = max(result.rms_errors[name] for name in taps)
        lines.append(f"| worst of {len(taps)} taps | {worst:.1e} | {rms:.1e} |")
    return "\n".join(lines) + "\n"


def gigabytes(size: float) -> str:
    """``"5.14 GB"``."""
    return f"{size / GB:.2f} GB"
