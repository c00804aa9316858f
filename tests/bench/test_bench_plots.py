"""How the time of a step grows with the pixels, and the plots of a results file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fam_bench.latency.results.plots import cost_figure, stage_pieces, stages_figure, write_plots
from fam_bench.latency.results.scaling import fitted_slope, points_of, slopes_of
from fam_runtime.errors import BackendError, StorageError
from tests.bench.result_documents import TITLES, results, row_of, set_rounds

SIZES = [4096, 16384, 36864, 65536]


@given(st.floats(0.5, 2.5), st.floats(1e-9, 1e-3))
def test_a_power_is_found_again(exponent: float, factor: float) -> None:
    slope = fitted_slope(SIZES, [factor * pixels**exponent for pixels in SIZES])
    assert slope.exponent == pytest.approx(exponent, abs=1e-9)
    assert slope.factor == pytest.approx(factor, rel=1e-6)
    assert slope.residual < 1e-9


def test_the_line_is_that_of_least_squares_in_the_logarithms() -> None:
    seconds = [0.01, 0.055, 0.11, 0.26]
    slope = fitted_slope(SIZES, seconds)
    exponent, offset = np.polyfit(np.log(SIZES), np.log(seconds), 1)
    assert slope.exponent == pytest.approx(exponent)
    assert slope.factor == pytest.approx(np.exp(offset))
    errors = np.log(seconds) - offset - exponent * np.log(SIZES)
    assert slope.residual == pytest.approx(np.sqrt(np.mean(errors**2)))


@pytest.mark.parametrize(
    ("pixels", "seconds", "message"),
    [
        ([4096], [1.0], "two sizes"),
        ([4096, 4096], [1.0, 2.0], "two sizes"),
        ([4096, 8192], [1.0], "two sizes"),
        ([4096, 8192], [1.0, 0.0], "above 0"),
        ([0, 8192], [1.0, 1.0], "above 0"),
    ],
)
def test_no_line_goes_through_less(pixels: list[float], seconds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted_slope(pixels, seconds)


def test_slopes_of_a_document() -> None:
    document = results((2.0, 3.0, 4.0), noise=0.0)
    slopes = {(row["contestant"], row["kind"]): row for row in slopes_of(document)}
    assert {name for name, _ in slopes} == set(TITLES)
    plain = slopes["cpp", "plain"]
    assert {slopes["cpp", kind]["points"] for kind in ("plain", "target", "FM + AM")} == {3}
    # The model's FM and AM are a share of its step.
    assert 1 < plain["exponent"] == pytest.approx(slopes["cpp", "target"]["exponent"])
    json.dumps(list(slopes.values()), allow_nan=False)


def test_one_size_has_no_slope_and_says_so() -> None:
    slopes = {row["kind"]: row for row in slopes_of(results((2.0,), ("cpp",)))}
    for name in ("exponent", "factor", "residual"):
        assert slopes["target"][name] is None
    assert slopes["target"]["points"] == 1 and "one size" in slopes["target"]["reason"]


def test_a_cost_below_zero_is_noise() -> None:
    document = results(noise=0.0)
    part = next(own for own in document["parts"] if own["contestant"] == "cpp")
    assert len(points_of(document, "cpp", "FM + AM")) == 2
    part["seconds"] = -1e-4
    assert [pixels for pixels, _ in points_of(document, "cpp", "FM + AM")] == [256**2]


def test_the_stages_of_a_picture_add_up_to_it() -> None:
    row = row_of(results(), "cpp", "picture", 2.0)
    assert list(stage_pieces(row)) == ["text", "native", "upsample", "target", "decode"]
    assert sum(stage_pieces(row).values()) == pytest.approx(row["median_seconds"])
    set_rounds(row, [1.25 * seconds for seconds in row["round_seconds"]])
    assert stage_pieces(row)["rest"] == pytest.approx(0.2 * row["median_seconds"])
    assert sum(stage_pieces(row).values()) == pytest.approx(row["median_seconds"])


def test_bars_end_where_their_totals_say() -> None:
    document = results()
    figure = stages_figure(document)
    assert figure is not None
    for axes, scale in zip(figure.axes, (2.0, 4.0), strict=True):
        titles = [label.get_text() for label in axes.get_yticklabels()]
        assert titles == list(TITLES.values())
        for index, (contestant, text) in enumerate(zip(TITLES, axes.texts, strict=True)):
            row = row_of(document, contestant, "picture", scale)
            own = [
                bar for bar in axes.patches if round(bar.get_y() + bar.get_height() / 2) == index
            ]
            ends = [bar.get_x() + bar.get_width() for bar in own]
            assert max(ends) == pytest.approx(row["median_seconds"], rel=0.01)
            assert float(text.get_text().split()[0]) == pytest.approx(
                row["median_seconds"], rel=0.01
            )
            ratio = f"{row['ratio_to_eager']:#.3g} × eager"
            assert (ratio in text.get_text()) == (contestant != "torch-eager")


def test_curves_are_the_rows() -> None:
    document = results()
    figure = cost_figure(document)
    assert figure is not None and len(figure.axes) == len(TITLES)
    axes = figure.axes[list(TITLES).index("openvino")]
    drawn = {line.get_label().split(":")[0]: line.get_xydata().tolist() for line in axes.lines}
    rows = {
        scale: row_of(document, "openvino", kind, scale)["median_seconds"]
        for scale, kind in ((2.0, "plain"), (4.0, "plain"))
    }
    assert drawn["plain"] == [[(64 * scale) ** 2, seconds] for scale, seconds in rows.items()]
    taps = row_of(document, "openvino", "native", 1.0)["median_seconds"]
    assert drawn["native, with taps"] == [[64**2, taps]]
    assert [point[0] for point in drawn["target"]] == [128**2, 256**2]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    exponent = next(
        row["exponent"]
        for row in slopes_of(document)
        if (row["contestant"], row["kind"]) == ("openvino", "target")
    )
    assert f"{exponent:.2f}" in legend[1]


@pytest.mark.parametrize("scales", [(2.0,), (2.0, 3.0, 4.0)])
def test_plots_are_written(scales: tuple[float, ...], tmp_path: Path) -> None:
    document = results(scales, ("torch-eager", "cpp"))
    # No text of a document is a formula: this one would be a broken one.
    document["bundle"]["name"] = r"$\frac{a$"
    document["figures"][0]["title"] = "$x_{$"
    document["gpu"] = {"name": "NVIDIA H200"}
    paths = write_plots(document, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["stages.png", "cost_against_pixels.png"]
    for path in paths:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
            assert picture.format == "PNG" and min(picture.size) > 400
        assert 0.02 < np.mean(np.any(pixels < 250, axis=-1)) < 0.9
    first = [path.read_bytes() for path in paths]
    again = write_plots(document, tmp_path / "again")
    assert [path.read_bytes() for path in again] == first
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(
        path.name for path in paths
    )


def test_there_is_no_plot_of_nothing(tmp_path: Path) -> None:
    document = results()
    document["figures"] = [row for row in document["figures"] if row["kind"] == "picture"]
    assert [path.name for path in write_plots(document, tmp_path)] == ["stages.png"]
    document["figures"] = []
    assert write_plots(document, tmp_path) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "stages.png").mkdir()
    with pytest.raises(StorageError, match=r"stages\.png"):
        write_plots(results((2.0,), ("cpp",)), tmp_path)


def test_without_matplotlib_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"expected matplotlib \| pip install"):
        write_plots(results(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_heavy_libraries_wait_and_pyplot_is_left_alone(tmp_path: Path) -> None:
    """In a process of its own, since other tests import what they need."""
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results((2.0,), ("cpp",))), encoding="utf-8")
    code = f"""
import sys
from pathlib import Path
from fam_bench.latency.results import comparison_table, compare, plots, scaling, spread
from fam_bench.latency.results.results_file import read_results
heavy = {{"matplotlib", "torch", "onnx", "onnxruntime", "diffusers"}} & set(sys.modules)
assert not heavy, heavy
assert plots.write_plots(read_results(Path({str(file)!r})), Path({str(tmp_path)!r}))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
