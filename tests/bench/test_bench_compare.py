"""What two results files of fam-bench say about each other, and files that are none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_bench.latency.results.compare import Change, Comparison, compare, compare_files
from fam_bench.latency.results.comparison_table import markdown
from fam_bench.latency.results.results_file import checked_results, read_results
from fam_runtime.errors import InvalidRequest
from tests.bench.result_documents import Document, derive, results, row_of, set_rounds


def changed(comparison: Comparison) -> list[tuple[str, str, float, str, str]]:
    return [
        (change.title, change.kind, change.scale, change.quantity, change.verdict)
        for change in comparison.changes
        if change.verdict != "same"
    ]


def slowed(document: Document, factor: float, *key: Any) -> Document:
    """The document with one row slower, and what follows from it."""
    other = copy.deepcopy(document)
    row = row_of(other, *key)
    set_rounds(row, [factor * seconds for seconds in row["round_seconds"]])
    derive(other)
    return other


def test_equal_files_have_no_change() -> None:
    comparison = compare(results(), results())
    assert changed(comparison) == []
    assert not comparison.regressed
    assert not (comparison.gone or comparison.appeared)
    assert comparison.rows == 6 * 8
    assert all(change.change in (0, 1) for change in comparison.changes)
    text = markdown(comparison)
    assert "48 rows in both: 48 unchanged; 0 figures worse, 0 better." in text
    assert "|" not in text


def test_one_slower_row_is_one_change() -> None:
    """Ratios of others to it, and the costs of parts, follow and are not reported."""
    before = results()
    after = slowed(before, 1.2, "torch-eager", "plain", 2.0)
    for name in ("ratio_to_eager", "ratio_to_plain"):
        others = [[row[name] for row in document["figures"]] for document in (before, after)]
        assert others[0] != others[1]
    comparison = compare(before, after)
    assert changed(comparison) == [("PyTorch eager", "plain", 2.0, "time", "worse")]
    assert comparison.regressed
    back = compare(after, before)
    assert changed(back) == [("PyTorch eager", "plain", 2.0, "time", "better")]
    assert not back.regressed


def test_a_tolerance_lets_it_pass_and_a_small_one_finds_less() -> None:
    before = results(noise=0.001)
    after = slowed(before, 1.2, "cpp", "target", 4.0)
    assert not compare(before, after, tolerance=0.25).regressed
    little = slowed(before, 1.05, "cpp", "target", 4.0)
    assert not compare(before, little).regressed
    assert len(changed(compare(before, little, tolerance=0.02))) == 1
    with pytest.raises(InvalidRequest, match=r"tolerance cannot be used \| got -0.1"):
        compare(before, after, tolerance=-0.1)


def test_noise_within_the_spread_is_no_change() -> None:
    """Medians of such rounds differ by more than the tolerance; their spreads say so."""
    runs = [results(noise=0.3, seed=seed) for seed in range(4)]
    pairs = list(pairwise(runs))
    comparisons = [compare(*pair) for pair in pairs]
    ratios = [
        abs(np.log(c.change)) for one in comparisons for c in one.changes if c.quantity == "time"
    ]
    assert np.quantile(ratios, 0.75) > np.log(1.1)
    assert sum(len(changed(one)) for one in comparisons) <= 3, "of 144"


def test_a_slower_machine_is_told_by_what_is_not_ours() -> None:
    comparison = compare(results(), results(slowness=1.5))
    assert len(changed(comparison)) == comparison.rows
    (note,) = (note for note in comparison.notes if note.startswith("machine: PyTorch eager"))
    assert "1.50 times as long" in note
    assert not any(
        note.startswith("machine: PyTorch") for note in compare(results(), results()).notes
    )


def test_a_slowdown_of_a_fifth_is_found_in_rounds_that_scatter() -> None:
    """As on a machine with neighbours: 11 rounds of 5 %."""
    before, after = results(noise=0.05), results(noise=0.05, seed=1)
    assert changed(compare(before, after)) == []
    slower = slowed(after, 1.25, "cpp", "target", 2.0)
    assert changed(compare(before, slower)) == [("libfam (C++)", "target", 2.0, "time", "worse")]


def test_one_picture_with_few_rounds_is_said() -> None:
    before, after = results(), results()
    row = row_of(after, "cpp", "picture", 4.0)
    set_rounds(row, row["round_seconds"][:2])
    notes = compare(before, after).notes
    assert any(note.startswith("rounds: 1 rows have fewer than 5") for note in notes)


@settings(max_examples=40)
@given(st.floats(0.5, 2), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_swapping_the_files_swaps_the_verdicts(
    factor: float, spread: float, other_spread: float, tolerance: float
) -> None:
    before = results((2.0,), ("cpp",))
    after = slowed(before, factor, "cpp", "target", 2.0)
    row_of(before, "cpp", "target", 2.0)["spread"] = spread
    row_of(after, "cpp", "target", 2.0)["spread"] = other_spread
    swapped = {"worse": "better", "better": "worse", "same": "same"}
    forth, back = compare(before, after, tolerance), compare(after, before, tolerance)
    assert [swapped[change.verdict] for change in forth.changes] == [
        change.verdict for change in back.changes
    ]


@pytest.mark.parametrize(
    ("name", "quantity"),
    [("peak_host_bytes", "host memory"), ("peak_device_bytes", "device memory")],
)
@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (200e6, 220e6, "worse"),
        (220e6, 200e6, "better"),
        (200e6, 208e6, "same"),  # 4 %
        (20e6, 23e6, "same"),  # 3 MB
        (20e6, 25e6, "worse"),
    ],
)
def test_memory(name: str, quantity: str, before: float, after: float, verdict: str) -> None:
    documents = results(), results()
    for document, size in zip(documents, (before, after), strict=True):
        row_of(document, "cpp", "target", 2.0)[name] = int(size)
    expected = [("libfam (C++)", "target", 2.0, quantity, verdict)] if verdict != "same" else []
    assert changed(compare(*documents)) == expected


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (52.0, 48.0, "worse"),
        (52.0, 50.0, "same"),
        (61.0, 57.0, "worse"),
        (100.0, 90.0, "same"),  # nobody sees either, and both are the float32 of other kernels
        (110.0, 65.0, "worse"),  # float32 became TF32
        (200.0, 118.0, "same"),  # bit for bit became float32's rounding
        (45.0, 70.0, "better"),
        (105.0, -200.0, "worse"),  # NaN
    ],
)
def test_exactness(before: float, after: float, verdict: str) -> None:
    documents = results(), results()
    for document, psnr in zip(documents, (before, after), strict=True):
        row_of(document, "cpp", "target", 2.0)["fidelity"]["psnr_db"] = psnr
    expected = [("libfam (C++)", "target", 2.0, "PSNR", verdict)] if verdict != "same" else []
    assert changed(compare(*documents)) == expected


def test_exactness_against_another_reference_is_not_compared() -> None:
    before, after = results(), results()
    row_of(after, "cpp", "target", 2.0)["fidelity"] = {"against": "cpp", "psnr_db": 1.0}
    row_of(after, "cpp", "plain", 2.0)["fidelity"] = None
    comparison = compare(before, after)
    assert changed(comparison) == []
    assert any("PSNR: not compared for 2 rows" in note for note in comparison.notes)


def test_rows_of_one_file_are_listed_with_the_reason() -> None:
    everybody = results((2.0, 4.0))
    fewer = results((2.0,), ("torch-eager", "cpp"))
    comparison = compare(everybody, fewer)
    assert len(comparison.gone) == 4 * 8 + 2 * 3
    assert not comparison.appeared and not comparison.regressed
    text = markdown(comparison)
    assert "| gone " in text and "it was not asked for" in text
    assert "scales 2.0, 4.0 → 2.0" in text
    assert len(compare(fewer, everybody).appeared) == len(comparison.gone)
    reason = {"contestant": "openvino", "kind": "target", "scale": 2, "reason": "a | b\ncrash"}
    fewer["not_run"].append(reason)
    failed = compare(everybody, fewer)
    assert failed.regressed, "a contestant that fails must not pass for one that nobody asked for"
    assert r"a \| b crash" in markdown(failed)
    back = compare(fewer, everybody)
    assert not back.regressed
    reasons = {(row.title, row.kind, row.scale): row.reason for row in back.appeared}
    assert reasons["OpenVINO, CPU", "target", 2.0] == "a | b\ncrash"
    assert reasons["OpenVINO, CPU", "plain", 2.0] == ""


def test_files_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"nothing in common \| got '5 and 5 rows"):
        compare(results((2.0,), ("cpp",)), results((2.0,), ("openvino",)))


def test_what_else_differs_is_said_and_comparing_goes_on() -> None:
    before, after = results(), results()
    after["machine"] |= {"cpu": "Xeon", "memory_bytes": 2 * 10**10, "packages": {"torch": "3.0"}}
    after["bundle"] |= {"hash": "3f" * 6 + "aa" * 26, "dtype": "fp16"}
    after["settings"] |= {"steps": 25, "threads": 1}
    after["gpu"] = {"name": "H200", "memory_bytes": 10**11}
    after["device"] = "cuda"
    comparison = compare(before, after)
    assert comparison.rows == 48
    notes = "\n".join(comparison.notes)
    assert "machine: cpu AMD EPYC → Xeon; memory 25.28 GB → 20.00 GB; device cpu → cuda" in notes
    assert "GPU: name – → H200; memory – → 100.00 GB" in notes
    assert "libraries: numpy 2.4.6 → –; torch 2.13.0+cpu → 3.0; onnxruntime 1.31.1 → –" in notes
    # Hashes that begin alike are other bundles.
    assert f"bundle: hash {'3f' * 6} → {'3f' * 6}; dtype fp32 → fp16" in notes
    assert "settings: steps 12 → 25; threads 2 → 1" in notes
    assert "seed" not in notes and "family" not in notes


def test_the_table_shows_worse_figures_first() -> None:
    before = slowed(results(), 1.3, "torch-literal", "plain", 2.0)
    after = slowed(results(), 1.2, "openvino", "target", 2.0)
    row_of(after, "cpp", "plain", 4.0)["fidelity"]["psnr_db"] = 50.0
    comparison = compare(before, after)
    lines = [line for line in markdown(comparison).splitlines() if line.startswith("|")]
    verdicts = [line.split("|")[1].strip() for line in lines]
    assert verdicts == ["", "-" * 12, "slower", "less exact", "faster"]
    assert len({len(line) for line in lines}) == 1
    assert "45 unchanged; 2 figures worse, 1 better" in markdown(comparison)
    assert "| OpenVINO, CPU " in lines[2] and " target 2x " in lines[2] and " 1.20" in lines[2]
    assert "-55.0 dB" in lines[3]
    every = [line for line in markdown(comparison, all_rows=True).splitlines() if "|" in line]
    assert len(every) == 2 + len(comparison.changes)


def test_times_are_shown_in_their_unit() -> None:
    before, after = results((2.0,), ("cpp",)), results((2.0,), ("cpp",))
    for seconds, kind in ((2e-5, "plain"), (3.5, "target")):
        set_rounds(row_of(before, "cpp", kind, 2.0), [seconds] * 8)
        set_rounds(row_of(after, "cpp", kind, 2.0), [2 * seconds] * 8)
    text = markdown(compare(before, after))
    assert "20 µs" in text and "40 µs" in text and "3.5 s" in text and "7 s" in text


def test_files_are_read_and_compared(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(results()), encoding="utf-8")
    second.write_text(json.dumps(slowed(results(), 2.0, "cpp", "target", 2.0)), encoding="utf-8")
    assert compare_files(first, second).regressed
    assert not compare_files(first, first).regressed


def test_a_run_beside_other_programs_is_said() -> None:
    document = results() | {"others_busy": 0.4}
    (note,) = (note for note in compare(results(), document).notes if "other programs" in note)
    assert "40 %" in note and "second run" in note


def test_fields_of_later_versions_and_missing_optional_ones_are_let_through() -> None:
    document = results()
    document["energy"] = {}
    for row in document["figures"]:
        row["watts"] = 3
        for name in ("fidelity", "peak_device_bytes", "ratio_to_eager"):
            del row[name]
    assert not compare(checked_results(document, what="it"), document).regressed


def damage(change: Callable[[Document], object]) -> Document:
    document = results()
    change(document)
    return document


DAMAGED = {
    "other program": (lambda d: d.update(made_by="perf 6"), "no result of fam-bench"),
    "nobody": (lambda d: d.pop("made_by"), "no result of fam-bench"),
    "later format": (lambda d: d.update(format=2), r"another format of results \| got 2"),
    "true is no version": (lambda d: d.update(format=True), "another format"),
    "no figures": (lambda d: d.pop("figures"), r"figures \| got 'nothing' \| expected a list"),
    "machine": (lambda d: d.update(machine="EPYC"), r"machine \| got 'EPYC' \| expected an object"),
    "row": (lambda d: d["figures"].append(3), r"figures\[48\] \| got 3"),
    "no time": (lambda d: d["figures"][3].pop("median_seconds"), r"figures\[3\].median_seconds"),
    "zero": (lambda d: d["figures"][3].update(median_seconds=0), "a number above 0"),
    "text": (lambda d: d["figures"][3].update(median_seconds="1"), "a number above 0"),
    "true": (lambda d: d["figures"][3].update(peak_host_bytes=True), "peak_host_bytes"),
    "huge": (lambda d: d["figures"][3].update(median_seconds=10**400), "median_seconds"),
    "negative": (lambda d: d["figures"][3].update(spread=-1), "spread"),
    "stages": (lambda d: d["figures"][3].update(stage_seconds={"text": "1"}), "stage_seconds"),
    "psnr": (lambda d: d["figures"][0].update(fidelity={"against": "x"}), "psnr_db"),
    "twice": (lambda d: d["figures"].append(d["figures"][0]), "twice"),
    "reason": (lambda d: d["not_run"][0].pop("reason"), r"not_run\[0\].reason"),
    "part": (lambda d: d["parts"][0].update(seconds=None), r"parts\[0\].seconds"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_whole_result_is_refused(name: str, tmp_path: Path) -> None:
    change, message = DAMAGED[name]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(damage(change)), encoding="utf-8")
    with pytest.raises(InvalidRequest, match=message) as refused:
        read_results(path)
    assert str(path) in refused.value.what
    assert refused.value.expected and refused.value.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no result of fam-bench"),
        (b"[]", "got 'list'"),
        (b"\xff\xfe", "no result of fam-bench"),
        (b'{"made_by": "fam-bench", "format": 1, "x": NaN}', "NaN, which is no number"),
        (b"[" * 100_000, "too deep nesting"),
        (b"9" * 5000, "no result of fam-bench"),
    ],
)
def test_what_is_no_json_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=message):
        read_results(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_results(tmp_path / "missing.json")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_results(tmp_path)


def test_a_change_keeps_what_it_rests_on() -> None:
    before, after = results(noise=0.2), results(noise=0.2, slowness=1.3, seed=1)
    first, second = (row_of(document, "cpp", "target", 2.0) for document in (before, after))
    change: Change = next(
        c
        for c in compare(before, after).changes
        if (c.title, c.kind, c.scale, c.quantity) == ("libfam (C++)", "target", 2.0, "time")
    )
    assert (change.before, change.after) == (first["median_seconds"], second["median_seconds"])
    assert change.change == pytest.approx(change.after / change.before)
    assert change.limit == pytest.approx(1 + np.hypot(first["spread"], second["spread"]))
