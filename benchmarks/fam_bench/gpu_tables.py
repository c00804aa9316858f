"""Markdown of the GPU check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fam_bench.full_size_tables import gigabytes
from fam_bench.gpu_rounds import MAX_REPEATS
from fam_bench.gpu_units import BY_NAME

_ENGINES = (
    "- *engines*: building them before, in processes of their own; 0.0 means that the cache had "
    "them. No engine is built within any other figure."
)
_MEMORY = (
    "- *GPU memory*: largest growth of what is used on the GPU, from before loading to the end of "
    "the warm-up."
)
_ABOUT_STEPS = f"""{_ENGINES}
- *load*: opening the library and loading the graph or engine. *first run*: with what is done only \
then, such as the compiling of torch.compile.
- *ms*: wall-clock time of a step in a row of at most {MAX_REPEATS["cpu"]} on the CPU and \
{MAX_REPEATS["cuda"]} on a GPU, until the last latent is on the host. The runtime uploads a row's \
inputs within that time, as for every stage of a picture; PyTorch's lie on the GPU already.
- *ms on the GPU*: the same between two events on the GPU, without uploads. Ratios of time are of \
these where both contestants have them. All contestants write all outputs, taps included.
{_MEMORY}"""
_ABOUT_PICTURES = f"""{_ENGINES}
- *open*: opening the library and the bundle; graphs and engines load in the *first picture*. \
*s*: wall-clock time of a picture after that, from its prompt to its pixels on the host.
{_MEMORY}"""

STAGES = ("text", "native", "upsample", "target", "decode")


def markdown(document: Mapping[str, Any]) -> str:
    """Everything the check found out."""
    lines = [f"# GPU check of {document['bundle']['name']}", "", *_machine(document), ""]
    figures = document["figures"]
    steps = [row for row in figures if row["kind"] != "picture"]
    pictures = [row for row in figures if row["kind"] == "picture"]
    if steps:
        lines += ["## Steps", "", *_steps(steps), "", _ABOUT_STEPS, *_arithmetic(document), ""]
    if pictures:
        lines += [f"## Pictures, {document['steps']} steps a stage", "", *_pictures(pictures), ""]
        lines += [_ABOUT_PICTURES, *_arithmetic(document), ""]
    if document["not_run"]:
        lines += ["## Not run", "", *_not_run(document["not_run"]), ""]
    return "\n".join(lines)


def _arithmetic(document: Mapping[str, Any]) -> list[str]:
    setting = "on" if document["bundle"]["tf32"] else "off"
    return [
        f"- TF32 for float32 products on a GPU: {setting} in all contestants, as for every bundle "
        f"in {document['bundle']['dtype']}."
    ]


def _machine(document: Mapping[str, Any]) -> list[str]:
    machine, bundle, gpu = document["machine"], document["bundle"], document["gpu"]
    if gpu is None:
        shown = f"no GPU: {document['no_gpu']}"
    else:
        shown = (
            f"{gpu['name']} (compute capability {'.'.join(map(str, gpu['capability']))}, "
            f"{_bytes(gpu['memory_bytes'])}; {gpu['found_by']}), driver {gpu['driver']} "
            f"for CUDA {gpu['cuda']}"
        )
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        f"- {shown}",
        f"- {machine['cpu']}, {machine['cores']} cores, {gigabytes(machine['memory_bytes'])}",
        f"- Python {machine['python']}, {packages}",
        f"- bundle {bundle['hash'][:16]}, {bundle['family']}, {bundle['dtype']}, native "
        f"{bundle['native']} pixels; one picture; {document['rounds']} rounds in turn, medians",
    ]


def _steps(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| step | scale | contestant | engines, s | load, s | first run, s | ms, median "
        "| ms, least | ms on the GPU | time / plain | time / eager | GPU memory | memory / plain "
        "| host memory | PSNR, dB |",
        "|---" * 15 + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row['kind']} | {row['scale']:g}x | {_title(row)} | {_beginning(row)} "
            f"| {1e3 * row['median_seconds']:.1f} | {1e3 * row['min_seconds']:.1f} "
            f"| {_milliseconds(row['median_device_seconds'])} "
            f"| {_number(row['time_ratio_to_plain'], 3)} "
            f"| {_number(row['time_ratio_to_eager'], 3)} "
            f"| {_bytes(row['peak_device_bytes'])} "
            f"| {_number(row['device_memory_ratio_to_plain'], 3)} "
            f"| {_bytes(row['peak_host_bytes'])} | {_psnr(row)} |"
        )
    return lines


def _pictures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    stages = " | ".join(f"{stage}, s" for stage in STAGES)
    lines = [
        "| scale | contestant | engines, s | open, s | first picture, s | s, median "
        f"| {stages} | GPU memory | host memory | PSNR, dB |",
        "|---" * (9 + len(STAGES)) + "|",
    ]
    for row in rows:
        own = " | ".join(_number(row["stage_seconds"].get(stage), 2) for stage in STAGES)
        lines.append(
            f"| {row['scale']:g}x | {_title(row)} | {_beginning(row)} "
            f"| {row['median_seconds']:.2f} | {own} | {_bytes(row['peak_device_bytes'])} "
            f"| {_bytes(row['peak_host_bytes'])} | {_psnr(row)} |"
        )
    return lines


def _not_run(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row for all that a contestant did not do for the same reason."""
    together: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        own = together.setdefault((_title(row), row["reason"]), [])
        own.append(f"{row['kind']} {row['scale']:g}x")
    lines = ["| contestant | what | why |", "|---|---|---|"]
    for (title, reason), what in together.items():
        escaped = reason.replace("|", "\\|")
        lines.append(f"| {title} | {', '.join(what)} | {escaped} |")
    return lines


def _beginning(row: Mapping[str, Any]) -> str:
    return f"{_built(row)} | {row['load_seconds']:.1f} | {row['first_seconds']:.2f}"


def _built(row: Mapping[str, Any]) -> str:
    builds = BY_NAME[row["contestant"]].builds_engines
    return f"{row['build_seconds']:.1f}" if builds else "–"


def _title(row: Mapping[str, Any]) -> str:
    return BY_NAME[row["contestant"]].title


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:.1f}"


def _bytes(value: int | None) -> str:
    return "–" if value is None else gigabytes(value)


def _psnr(row: Mapping[str, Any]) -> str:
    if row["psnr_db"] is None:
        return "–"
    return f"{row['psnr_db']:.1f} to {BY_NAME[row['psnr_against']].title}"
