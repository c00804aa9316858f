"""The results as Markdown: a summary by contestant, and every figure behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fam_bench.full_size_tables import gigabytes
from fam_bench.latency.contestants import BY_NAME, EAGER, PICTURE_KINDS, Kind
from fam_bench.latency.floor.floor import ratio_to_floor
from fam_bench.latency.quiet import BUSY_SHARE
from fam_bench.latency.rounds import MAX_REPEATS
from fam_bench.latency.units import TITLES

STAGES = ("text", "native", "upsample", "target", "decode")
SUMMARY: tuple[Kind, ...] = ("native", "target", "plain", "picture", "direct")
AROUND_STEPS = {"text": "text encoder", "upsample": "upsampler", "decode": "VAE decoder"}
"""Stages of a picture that are no steps."""

NOTHING = "–"

_ABOUT_SUMMARY = """- Milliseconds, medians; in brackets how many times as fast as PyTorch eager \
in the same rounds. A native step writes its taps.
- FM, AM and taps are differences within a round between the same step with and without: medians, \
and the interval of the median at 95 %; a share of the step without FM and AM (of the native step \
without taps).
- *picture*: both stages with {steps} steps each, from the prompt to 8-bit pixels; *text encoder*, \
*upsampler* and *VAE decoder* are its other stages. Native attention is kept; the literal \
reference computes it again, and computes in fp32 whatever the bundle's precision is."""

_ABOUT_FIGURES = f"""- *engines*: building them before, in processes of their own; 0.0 means that \
the cache had them. *load*: opening the library and loading the graph. *first*: the first run, \
with what is done only then, such as the compiling of torch.compile.
- *p50*, *p95*, *least* and *n* are of single runs on the CPU. On a GPU they are of turns: rows of \
at most {MAX_REPEATS["cuda"]} steps that are queued at once, until the last latent is on the host.
- *on the GPU*: between two events on the GPU, without uploads; ratios of time are of these where \
both have them.
- *±*: half of the interval of the median at 95 %, over the rounds.
- *memory*: of the process that computes, at its peak, with its libraries and weights; on a GPU \
the growth of what is used there.
- *PSNR* and *largest error*: of the latents (of 8-bit pixels for other programs) against the \
first contestant that has them; 200 dB stands for equal."""


def markdown(document: Mapping[str, Any]) -> str:
    """Everything the benchmark found out."""
    figures = document["figures"]
    lines = [f"# fam-bench: {document['bundle']['name']}", "", *_machine(document), ""]
    for scale in document["settings"]["scales"]:
        lines += _summary(document, scale)
    if document["protocol"]:
        lines += ["## FAM beside direct inference", "", *_protocol(document), ""]
    if slopes := [row for row in document["slopes"] if row["exponent"] is not None]:
        lines += ["## Cost against pixels", "", *_slopes(slopes), ""]
    if document.get("floor"):
        lines += ["## The floor", "", *_floor(document), ""]
    if figures:
        lines += [
            "## All figures",
            "",
            *_figures(figures),
            "",
            _ABOUT_FIGURES,
            *_tf32(document),
            "",
        ]
    if pictures := [row for row in figures if row["kind"] in PICTURE_KINDS]:
        lines += ["## Stages of a picture, seconds", "", *_stages(pictures), ""]
    if document["not_run"]:
        lines += ["## Not run", "", *_not_run(document["not_run"]), ""]
    return "\n".join(lines)


def _machine(document: Mapping[str, Any]) -> list[str]:
    machine, bundle, gpu = document["machine"], document["bundle"], document["gpu"]
    settings = document["settings"]
    if gpu is None:
        shown = f"no GPU: {document['no_gpu']}"
    else:
        shown = (
            f"{gpu['name']} (compute capability {'.'.join(map(str, gpu['capability']))}, "
            f"{_bytes(gpu['memory_bytes'])}; {gpu['found_by']}), driver {gpu['driver']} "
            f"for CUDA {gpu['cuda']}"
        )
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"- {shown}",
        f"- {machine['cpu']}, {machine['cores']} cores, {gigabytes(machine['memory_bytes'])}; "
        f"{settings['threads']} threads each",
        f"- Python {machine['python']}, {packages}",
        f"- bundle {bundle['hash'][:16]}, {bundle['family']}, {bundle['dtype']}, native "
        f"{bundle['native']} pixels; one picture, {settings['scheduler']}, guidance "
        f"{settings['guidance_scale']:g}, seed {settings['seed']}; {settings['rounds']} rounds",
    ]
    if document["others_busy"] > BUSY_SHARE:
        share = 100 * document["others_busy"]
        lines.append(f"- **other programs took up to {share:.0f} % of the processors meanwhile**")
    lines += [
        f"- **{BY_NAME[name].title} was made {factor:g} times as slow on purpose**"
        for name, factor in settings["planted_slowdowns"].items()
    ]
    return lines


def _summary(document: Mapping[str, Any], scale: float) -> list[str]:
    """A row per thing, a column per contestant."""
    rows = {
        (row["contestant"], row["kind"]): row
        for row in document["figures"]
        if row["scale"] in (1.0, scale)
    }
    names = [name for name in BY_NAME if any(name == contestant for contestant, _ in rows)]
    if not names:
        return []
    parts = {
        (part["contestant"], part["part"]): part
        for part in document["parts"]
        if part["scale"] == (1.0 if part["part"] == "taps" else scale)
    }
    table = [["ms", *(BY_NAME[name].title for name in names)]]
    for kind in SUMMARY:
        if kind == "picture":
            for stage, title in AROUND_STEPS.items():
                table.append([title, *(_stage_cell(rows, name, stage) for name in names)])
        cells = [_time_cell(rows.get((name, kind))) for name in names]
        table.append([TITLES[kind], *cells])
        for part in {"native": ("taps",), "target": ("FM", "AM", "FM + AM")}.get(kind, ()):
            table.append([f"… of which {part}", *(_part_cell(parts.get((n, part))) for n in names)])
    table += [
        [
            "peak memory of the target step, MB",
            *(_memory_cell(rows.get((n, "target"))) for n in names),
        ],
        ["PSNR of the picture, dB", *(_psnr_cell(rows.get((n, "picture"))) for n in names)],
    ]
    shown = [row for row in table if any(cell != NOTHING for cell in row[1:])]
    about = _ABOUT_SUMMARY.format(steps=document["settings"]["steps"])
    return [f"## {scale:g}x", "", *_table(shown), "", about, ""]


def _time_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOTHING
    seconds = row["median_device_seconds"] or row["median_seconds"]
    ratio = row["ratio_to_eager"]
    faster = "" if ratio is None or row["contestant"] == EAGER else f" ({1 / ratio:.2f}x)"
    return f"{1e3 * seconds:.1f}{faster}"


def _stage_cell(rows: Mapping[tuple[str, str], Mapping[str, Any]], name: str, stage: str) -> str:
    """Of a picture, beside PyTorch's median."""
    own, eager = (
        rows.get((contestant, "picture"), {}).get("stage_seconds", {}).get(stage)
        for contestant in (name, EAGER)
    )
    if own is None:
        return NOTHING
    faster = "" if eager is None or name == EAGER else f" ({eager / own:.2f}x)"
    return f"{1e3 * own:.1f}{faster}"


def _part_cell(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return NOTHING
    low, middle, high = (100 * part[name] for name in ("low", "ratio_to_plain", "high"))
    return f"{1e3 * part['seconds']:.2f} ({middle:.1f} %, {low:.1f} to {high:.1f})"


def _memory_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOTHING
    taken = row["peak_host_bytes"] if row["peak_device_bytes"] is None else row["peak_device_bytes"]
    ratio = row["memory_ratio_to_plain"]
    return f"{taken / 1e6:.0f}" + ("" if ratio is None else f" ({ratio:.3f} of plain)")


def _psnr_cell(row: Mapping[str, Any] | None) -> str:
    return (
        NOTHING if row is None or row["fidelity"] is None else f"{row['fidelity']['psnr_db']:.1f}"
    )


def _protocol(document: Mapping[str, Any]) -> list[str]:
    head = ["contestant", "scale", "direct, s", "FAM, s", "overhead", "native stage of it"]
    head += ["paper: direct, min", "FAM, min", "overhead"]
    table = [head]
    for row in document["protocol"]:
        table.append(
            [
                row["title"],
                f"{row['scale']:g}x",
                f"{row['direct_seconds']:.2f}",
                f"{row['fam_seconds']:.2f}",
                f"{100 * row['overhead']:.0f} %",
                _percent(row["native_share"]),
                _number(row["paper_direct_minutes"], 1),
                _number(row["paper_fam_minutes"], 1),
                _percent(row["paper_overhead"]),
            ]
        )
    steps = document["settings"]["steps"]
    about = (
        f"{steps} steps a stage. *direct*: random noise denoised at the target size by the UNet "
        "without FM and AM. The paper's minutes are SDXL's with 50 steps on an A40 (Table 1)."
    )
    return [*_table(table), "", about]


def _slopes(slopes: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [["contestant", "step", "seconds grow as pixels to the power of", "sizes"]]
    for row in slopes:
        title = BY_NAME[row["contestant"]].title
        table.append([title, row["kind"], f"{row['exponent']:.2f}", str(row["points"])])
    return _table(table)


def _floor(document: Mapping[str, Any]) -> list[str]:
    rows, figures = document["floor"], document["figures"]
    names = [name for name in BY_NAME if any(row["contestant"] == name for row in figures)]
    head = ["what", "scale", "Gop", "weights read, MB", "floor, ms", "bound by"]
    table = [[*head, *(f"{BY_NAME[name].title}, time / floor" for name in names)]]
    for row in rows:
        same = {f["contestant"]: ratio_to_floor(f, [row]) for f in figures if _is_of(f, row)}
        table.append(
            [
                TITLES[row["kind"]],
                f"{row['scale']:g}x",
                f"{row['operations'] / 1e9:.2f}",
                f"{row['weight_bytes'] / 1e6:.1f}",
                f"{1e3 * row['floor_seconds']:.2f}",
                row["bound"],
                *(_number(same.get(name), 2) for name in names),
            ]
        )
    ceilings = document["ceilings"]
    about = (
        f"The longer of operations over {ceilings['operations_per_second'] / 1e9:.0f} Gop/s and of "
        f"weights, inputs and outputs over {ceilings['bytes_per_second'] / 1e9:.0f} GB/s, the most "
        f"that was seen here ({ceilings['how']}). A multiply-add is two operations."
    )
    return [*_table(table), "", about]


def _is_of(figure: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return (figure["kind"], figure["scale"]) == (row["kind"], row["scale"])


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["what", "scale", "contestant", "engines, s", "load, s", "first, s", "p50, ms", "±"]
    head += ["p95, ms", "least, ms", "n", "on the GPU, ms", "time / eager", "time / plain"]
    head += ["GPU memory", "host memory", "memory / plain", "PSNR, dB", "largest error"]
    return _table([head, *(_figure(row) for row in rows)])


def _figure(row: Mapping[str, Any]) -> list[str]:
    fidelity = row["fidelity"]
    against = "" if fidelity is None else f" to {BY_NAME[fidelity['against']].title}"
    builds = BY_NAME[row["contestant"]].builds_engines
    return [
        TITLES[row["kind"]],
        f"{row['scale']:g}x",
        row["title"],
        f"{row['build_seconds']:.1f}" if builds else NOTHING,
        f"{row['load_seconds']:.1f}",
        f"{row['first_seconds']:.2f}",
        f"{1e3 * row['median_seconds']:.2f}",
        f"{100 * row['spread']:.1f} %",
        f"{1e3 * row['p95_seconds']:.2f}",
        f"{1e3 * row['min_seconds']:.2f}",
        str(row["n"]),
        _milliseconds(row["median_device_seconds"]),
        _number(row["ratio_to_eager"], 3),
        _number(row["ratio_to_plain"], 3),
        _bytes(row["peak_device_bytes"]),
        f"{row['peak_host_bytes'] / 1e6:.0f} MB",
        _number(row["memory_ratio_to_plain"], 3),
        NOTHING if fidelity is None else f"{fidelity['psnr_db']:.1f}{against}",
        NOTHING
        if fidelity is None or fidelity["max_error"] is None
        else f"{fidelity['max_error']:.1e}",
    ]


def _stages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [["picture", "scale", "contestant", *STAGES, "whole"]]
    for row in rows:
        own = [_number(row["stage_seconds"].get(stage), 3) for stage in STAGES]
        scale, whole = f"{row['scale']:g}x", f"{row['median_seconds']:.3f}"
        table.append([TITLES[row["kind"]], scale, row["title"], *own, whole])
    return _table(table)


def _not_run(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row for all that a contestant did not do for the same reason."""
    together: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        own = together.setdefault((BY_NAME[row["contestant"]].title, row["reason"]), [])
        own.append(f"{TITLES[row['kind']]} {row['scale']:g}x")
    table = [["contestant", "what", "why"]]
    for (title, reason), what in together.items():
        whole = len(what) == sum(BY_NAME[r["contestant"]].title == title for r in rows)
        table.append([title, "everything" if whole and len(what) > 1 else ", ".join(what), reason])
    return _table(table)


def _tf32(document: Mapping[str, Any]) -> Iterator[str]:
    if document["device"] == "cuda":
        setting = "on" if document["bundle"]["tf32"] else "off"
        yield (
            f"- TF32 for float32 products on a GPU: {setting} in all contestants, as for every "
            f"bundle in {document['bundle']['dtype']}; off in the literal reference."
        )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"


def _milliseconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{1e3 * seconds:.2f}"


def _bytes(value: int | None) -> str:
    return NOTHING if value is None else gigabytes(value)
