"""Weights that sessions share, and free memory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fam_runtime.backends.onnxruntime.loader import SharedWeights
from fam_runtime.free_memory import free_memory_bytes
from tests.cpp.engine_runs import cpp_text, text_of
from tests.cpp.probe import Probe

ENTRY = {"dtype": "float32", "shape": [2, 8], "offset": 64, "bytes": 64}


def both_indices(probe: Probe, folder: Path, index: bytes, weights: bytes) -> tuple[str, str]:
    """What the two runtimes say of an index that does not fit."""
    (folder / "weights.bin").write_bytes(weights)
    (folder / "weights.json").write_bytes(index)
    paths = folder / "weights.bin", folder / "weights.json"
    ask = {"weights": str(paths[0]), "index": str(paths[1])}
    expected = text_of(lambda: SharedWeights(*paths))
    return cpp_text(lambda: probe.ask("engines.shared_weights", **ask)), expected


def test_an_index_that_fits(probe: Probe, tmp_path: Path) -> None:
    index = {
        "a": ENTRY,
        "b": {**ENTRY, "dtype": "float16", "shape": [32]},
        "all": {**ENTRY, "offset": 0, "bytes": 128, "dtype": "int64", "shape": [16], "sha256": "x"},
        "empty": {**ENTRY, "bytes": 0, "shape": [0, 3]},
        "scalar": {**ENTRY, "bytes": 1, "dtype": "bool", "shape": []},
    }
    (tmp_path / "weights.bin").write_bytes(bytes(128))
    (tmp_path / "weights.json").write_text(json.dumps(index), "utf-8")
    SharedWeights(tmp_path / "weights.bin", tmp_path / "weights.json")
    ask = {"weights": str(tmp_path / "weights.bin"), "index": str(tmp_path / "weights.json")}
    assert probe.ask("engines.shared_weights", **ask) == len(index)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 64 * 10_000},
        {"offset": 4},
        {"offset": -64},
        {"offset": 128},
        {"bytes": 8},
        {"bytes": 65},
        {"bytes": 128, "shape": [4, 8]},
        {"bytes": 2**53 - 1},
        {"dtype": "object"},
        {"dtype": None},
        {"dtype": []},
        {"offset": 64, "bytes": -64, "shape": [0]},
        {"shape": [16, 2]},
        {"shape": [2**32, 2**32]},
        {"shape": [0]},
        {"shape": "x"},
        {"shape": [True, None, "8"]},
        {"shape": None},
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    probe: Probe, tmp_path: Path, change: dict[str, Any]
) -> None:
    index = json.dumps({"w0": ENTRY, "w1": {**ENTRY, **change}}).encode()
    got, expected = both_indices(probe, tmp_path, index, bytes(128))
    assert got == expected


@pytest.mark.parametrize("key", ENTRY)
def test_an_entry_without_a_key_is_refused(probe: Probe, tmp_path: Path, key: str) -> None:
    entry = {name: value for name, value in ENTRY.items() if name != key}
    got, expected = both_indices(probe, tmp_path, json.dumps({"w": entry}).encode(), bytes(128))
    assert got == expected


@pytest.mark.parametrize("index", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"w0": 3}'])
def test_an_index_that_is_none_is_refused(probe: Probe, tmp_path: Path, index: bytes) -> None:
    """The words for broken JSON are not Python's."""
    got, expected = both_indices(probe, tmp_path, index, bytes(128))
    parts, expected_parts = got.split(" | "), expected.split(" | ")
    assert [parts[0], *parts[2:]] == [expected_parts[0], *expected_parts[2:]]
    if index in (b"[]", b"3", b'{"w0": 3}'):
        assert got == expected


def test_empty_weights_are_refused(probe: Probe, tmp_path: Path) -> None:
    got, expected = both_indices(probe, tmp_path, json.dumps({"w": ENTRY}).encode(), b"")
    assert got == expected


MEMINFO = ("MemTotal:  4000 kB\nMemFree: 9 kB\nMemAvailable:  2000 kB\nCached: 3 kB\n", "", "x:\n")
GROUPS = (
    "0::/\n",
    "0::/a/b\n",
    "0::/a//./b/\n",
    "5:cpu,memory:/a/b\n1:name=x:/y\n",
    "x\n",
    "1:c\n",
)
NUMBERS = ("900", "300\n", "max", "", "-5", "99999999999999999999", "9223372036854771712", "é")


def random_machine(rng: random.Random) -> dict[str, str]:
    files = {"proc/meminfo": rng.choice(MEMINFO), "proc/self/cgroup": rng.choice(GROUPS)}
    for folder in ("", "a/", "a/b/"):
        for mount, names in (
            ("sys/fs/cgroup/", ("memory.max", "memory.current")),
            ("sys/fs/cgroup/memory/", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
        ):
            for name in names:
                number = rng.choice([str(rng.randint(0, 4_000_000)), rng.choice(NUMBERS)])
                files[mount + folder + name] = number
            stat = f"anon 5\ninactive_file {rng.choice(['7', 'x', ''])}\ninactive_file 11\n"
            files[mount + folder + "memory.stat"] = stat
    return {name: text for name, text in files.items() if rng.random() < 0.9}


def test_free_memory_is_read_as_in_python(probe: Probe, tmp_path: Path) -> None:
    rng, seen = random.Random(1), set()
    for number in range(40):
        root = tmp_path / str(number)
        for name, text in random_machine(rng).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, "utf-8")
        expected = free_memory_bytes(root)
        got = probe.ask("engines.free_memory", root=str(root))
        if expected is not None and expected > 4_000_000:
            assert got > 4_000_000  # of the whole machine, which changes meanwhile
        else:
            assert got == expected
        seen.add(expected)
    assert {0, 2000 * 1024} < seen
