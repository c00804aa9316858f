"""Two plots of a results file: where a picture's time goes, and how a step grows with its pixels.

They are drawn on figures of their own: nothing here touches pyplot, a window or global settings.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from fam_bench.latency.contestants import EAGER
from fam_bench.latency.results import scaling
from fam_runtime.bundle import write_atomically
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150


STAGE_COLOURS = MappingProxyType(
    {
        "text": "#000000",
        "native": "#56B4E9",
        "upsample": "#CC79A7",
        "target": "#0072B2",
        "decode": "#E69F00",
        "load": "#999999",
        "rest": "#DDDDDD",
    }
)
"""Stages in their order, in colours of Okabe and Ito, which differ for colour-blind eyes too.

`load` is loading graphs within the picture, and `rest` what no stage counts.
"""

CURVES = MappingProxyType(
    {
        scaling.PLAIN: {"color": "#E69F00", "marker": "s", "markersize": 9, "linewidth": 5},
        scaling.TARGET: {"color": "#0072B2", "marker": "o", "markersize": 4, "linewidth": 1.5},
        scaling.FM_AND_AM: {"color": "#009E73", "marker": "^", "markersize": 5, "linestyle": ":"},
    }
)
"""Target and plain steps cost nearly the same: a thin line lies on a broad one."""

TAPS = MappingProxyType(
    {
        "color": "#0072B2",
        "marker": "D",
        "markersize": 11,
        "markerfacecolor": "none",
        "linestyle": "none",
    }
)
"""The native step with its taps: the other half of the method's cost, and a single size."""

SMALLEST_REST = 0.005
"""Less of a picture's time than this is no stage, only medians that do not add up."""

_BAR_INCHES = 0.34
_MIN_INCHES = 6.5
_ROOM_FOR_TOTALS = 1.3
_ROOM_FOR_LEGEND = 0.45
_PANELS_PER_ROW = 3
_FEW_DECADES = 100
_LARGE, _MIDDLE, _SMALL = 10, 9, 8  # points
_GRID_COLOUR = "#E8E8E8"


def write_plots(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``stages.png`` and ``cost_against_pixels.png``, each if there are rows for it.

    Args:
        document: a results file that :func:`checked_results` let pass.
        folder: for the files; made if it does not exist.

    Returns:
        The files that were written.

    Raises:
        BackendError: matplotlib is missing.
        StorageError: a file cannot be written.
    """
    try:
        figures = {
            "stages.png": stages_figure(document),
            "cost_against_pixels.png": cost_figure(document),
        }
    except ModuleNotFoundError as error:
        raise BackendError(
            "plots cannot be drawn",
            got=f"no module {error.name}",
            expected="matplotlib",
            fix='pip install "fam-diffusion[bench]"',
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            picture = io.BytesIO()
            # Without the library's version in it, equal results give equal files.
            figure.savefig(picture, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
            write_atomically(folder / name, picture.getvalue())
            written.append(folder / name)
    return written


def stages_figure(document: Mapping[str, Any]) -> Figure | None:
    """A panel per scale, a bar per contestant, a piece per stage; None without pictures."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [row for row in document["figures"] if row["kind"] == "picture"]
    scales = sorted({row["scale"] for row in rows})
    if not rows:
        return None
    panels = [[row for row in rows if row["scale"] == scale] for scale in scales]
    heights = [len(panel) + 1 for panel in panels]
    figure = Figure(figsize=(10, 1.7 + _BAR_INCHES * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, own in zip(panels, axes, strict=True):
        _draw_stages(own, panel)
    seen = {name for row in rows for name in stage_pieces(row)}
    pieces = [
        Patch(color=STAGE_COLOURS[name], label=name) for name in STAGE_COLOURS if name in seen
    ]
    legend = figure.legend(
        handles=pieces,
        loc="outside upper left",
        ncols=len(pieces),
        frameon=False,
        title="Where the time of a picture goes",
        alignment="left",
    )
    legend.get_title().set(weight="bold", size="large")
    axes[-1].set_xlabel("seconds of a picture, median")
    _sign(figure, document)
    return figure


def _draw_stages(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The bars of one scale."""
    totals = []
    for index, row in enumerate(rows):
        left = 0.0
        for name, seconds in stage_pieces(row).items():
            axes.barh(index, seconds, left=left, color=STAGE_COLOURS[name], height=0.72)
            left += seconds
        totals.append(left)
        axes.text(left, index, f"  {_total(row)}", va="center", fontsize=_MIDDLE)
    axes.set_xlim(0, _ROOM_FOR_TOTALS * max(totals))
    axes.set_yticks(range(len(rows)), [_literal(row["title"]) for row in rows])
    axes.invert_yaxis()
    pixels = rows[0].get("pixels")
    size = f", {_size(pixels)} pixels" if pixels else ""
    axes.set_title(f"{rows[0]['scale']:g}×{size}", loc="left", fontsize=_LARGE)
    axes.tick_params(axis="y", length=0)
    _tidy(axes, "x")


def stage_pieces(row: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per stage that takes any, and the rest of the picture's median time."""
    stages = row["stage_seconds"]
    pieces = {name: stages[name] for name in STAGE_COLOURS if stages.get(name)}
    rest = row["median_seconds"] - sum(pieces.values())
    if rest > SMALLEST_REST * row["median_seconds"]:
        pieces["rest"] = rest
    return pieces


def _total(row: Mapping[str, Any]) -> str:
    """``"1.23 s, 0.851 × eager"``."""
    total = f"{_three_digits(row['median_seconds'])} s"
    ratio = row.get("ratio_to_eager")
    if ratio is None or row["contestant"] == EAGER:
        return total
    return f"{total}, {_three_digits(ratio)} × eager"


def _three_digits(value: float) -> str:
    """``"1.00"``, ``"109"``."""
    return f"{value:#.3g}".rstrip(".")


def cost_figure(document: Mapping[str, Any]) -> Figure | None:
    """A panel per contestant with its curves over the pixels; None without steps."""
    from matplotlib.figure import Figure

    contestants = scaling.contestants_of(document)
    if not contestants:
        return None
    columns = min(len(contestants), _PANELS_PER_ROW)
    rows = math.ceil(len(contestants) / columns)
    figure = Figure(
        figsize=(max(1.2 + 3.6 * columns, _MIN_INCHES), 1.5 + 3.2 * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    panels = list(grid.flat)
    sizes: set[float] = set()
    for contestant, axes in zip(contestants, panels, strict=False):
        sizes |= _draw_costs(axes, document, contestant)
    _scale_axes(panels[0], sorted(sizes))
    for axes, below in zip(panels, [*panels[columns:], *[None] * columns], strict=True):
        # The lowest panel of a column names the sizes, also above a place that is not used.
        if below is None or below in panels[len(contestants) :]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("pixels", fontsize=_LARGE)
    for unused in panels[len(contestants) :]:
        unused.remove()
    title = "How the time of a step grows with the pixels"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.supylabel("seconds of a step, median", fontsize=_LARGE)
    _sign(figure, document)
    return figure


def _draw_costs(axes: Axes, document: Mapping[str, Any], contestant: str) -> set[float]:
    """The curves of a contestant; returns the sizes that they have."""
    slopes = {r["kind"]: r for r in scaling.slopes_of(document) if r["contestant"] == contestant}
    sizes: set[float] = set()
    for kind, look in CURVES.items():
        if points := scaling.points_of(document, contestant, kind):
            label = f"{kind}: {_slope_text(slopes[kind])}"
            axes.loglog(*zip(*points, strict=True), **look, label=label)
            sizes |= {pixels for pixels, _ in points}
    if taps := scaling.row_points(document, contestant, ["native"]):
        axes.loglog(*zip(*taps, strict=True), **TAPS, label="native, with taps")
        sizes |= {pixels for pixels, _ in taps}
    title = next(r["title"] for r in document["figures"] if r["contestant"] == contestant)
    axes.set_title(_literal(title), loc="left", fontsize=_LARGE)
    axes.legend(loc="upper left", fontsize=_SMALL, frameon=False, handlelength=3, labelspacing=0.7)
    _tidy(axes, "both")
    return sizes


def _slope_text(slope: Mapping[str, Any]) -> str:
    if slope["exponent"] is None:
        return "one size, no slope"
    power = rf"$\propto$ pixels$^{{{slope['exponent']:.2f}}}$"
    if slope["points"] == 2:
        return power  # two points lie on any line; more say how well a power describes them
    return f"{power} (fits to {100 * math.expm1(slope['residual']):.0f} %)"


def _scale_axes(axes: Axes, sizes: Sequence[float]) -> None:
    """Ticks at the sizes that there are, and room for the legend; all panels share the axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xticks(sizes, [_size(pixels) for pixels in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** _ROOM_FOR_LEGEND)
    steps = (1.0, 2.0, 5.0) if high / low < _FEW_DECADES else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _sign(figure: Figure, document: Mapping[str, Any]) -> None:
    """Say below what was measured, and on what."""
    figure.supxlabel(_made_on(document), x=0.01, ha="left", fontsize=_SMALL, color="#555555")


def _tidy(axes: Axes, grid: Literal["both", "x"]) -> None:
    axes.grid(axis=grid, color=_GRID_COLOUR)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_LARGE)


def _size(pixels: float) -> str:
    """``"256²"``; the number of pixels where they are no square."""
    side = math.isqrt(int(pixels))
    return f"{side}²" if side * side == pixels else f"{int(pixels)}"


def _made_on(document: Mapping[str, Any]) -> str:
    """What was measured, and on what, in two lines."""
    machine, bundle, settings = document["machine"], document["bundle"], document["settings"]
    gpu = (document.get("gpu") or {}).get("name")
    where = [gpu, machine.get("cpu"), f"{machine.get('cores')} cores", f"made {document['when']}"]
    what = [
        f"bundle {bundle.get('name')} {str(bundle.get('hash'))[:12]}",
        bundle.get("family"),
        bundle.get("dtype"),
        f"native {bundle.get('native')}",
        f"{settings.get('steps')} steps a stage",
        f"{settings.get('rounds')} rounds",
    ]
    return f"{_joined(what)}\n{_joined(where)}"


def _joined(parts: Iterable[object]) -> str:
    return _literal(", ".join(str(part) for part in parts if part))


def _literal(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return " ".join(text.split()).replace("$", r"\$")
