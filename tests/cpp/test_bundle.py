"""Bundles on disk: C++ opens what Python opens, and refuses the others with the same words."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx.external_data_helper import set_external_data

from fam_runtime.bundle import Bundle, verify_file
from fam_runtime.bundle.manifest_parts import FileRecord
from fam_runtime.errors import Cancelled, FamError
from tests.cpp import damaged_bundles as damaged
from tests.cpp.damaged_bundles import Damage
from tests.cpp.probe import CppError, Probe
from tests.runtime.fake_bundle import refresh_manifest, write_bundle

TOKENIZER = "tokenizer/tokenizer.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of hand-made graphs; read only. Its native step keeps a tensor in weights.bin."""
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "whole")
    model = onnx.load(root / damaged.EXTERNAL)
    tensor = model.graph.initializer[0]
    (root / "unet/weights.bin").write_bytes(tensor.raw_data)
    set_external_data(tensor, "weights.bin", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    (root / damaged.EXTERNAL).write_bytes(model.SerializeToString())
    (root / "unet/weights.json").write_text("{}\n")
    refresh_manifest(root)
    return root


def outcome(ask: Callable[[], object]) -> object:
    """What `ask` gives, or the class and the text of its error."""
    try:
        return ask()
    except CppError as error:
        return error.kind, error.text
    except FamError as error:
        return type(error).__name__, str(error)


def opened_by_python(path: object, verify: str) -> object:
    reports: list[int] = []
    bundle = Bundle.open(str(path), verify=verify, progress=reports.append)
    return {"root": str(bundle.root), "hash": bundle.hash, "reports": reports}


def opened_by_cpp(probe: Probe, path: object, verify: str) -> object:
    answer = probe.ask("bundle.open", path=str(path), verify=verify)
    answer.pop("bundle")
    return answer


def assert_same(probe: Probe, path: object, verify: str = "full") -> object:
    """Both open the bundle at `path`, or refuse it, in the same way; returns Python's outcome."""
    expected = outcome(lambda: opened_by_python(path, verify))
    assert outcome(lambda: opened_by_cpp(probe, path, verify)) == expected
    return expected


def assert_same_for_all(
    probe: Probe, whole: Path, place: Path, damages: dict[str, Damage], *, refused: float = 1.0
) -> None:
    """`refused`: the share of `damages` that must be noticed, by both."""
    count = 0
    for number, (name, damage) in enumerate(damages.items()):
        root = shutil.copytree(whole, place / str(number) / "bundle")
        damage(root)
        for verify in ("full", "size"):
            try:
                expected = assert_same(probe, root, verify)
            except AssertionError as error:
                raise AssertionError(f"{name} ({verify}): {error}") from None
            count += isinstance(expected, tuple) and verify == "full"
        shutil.rmtree(place / str(number))
    assert count >= refused * len(damages)


def test_a_whole_bundle(probe: Probe, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole)
    for path in (whole, tmp_path / "link", f"{whole}//.//", f"{whole}/unet/.."):
        for verify in ("full", "size"):
            assert isinstance(assert_same(probe, path, verify), dict)


@pytest.mark.parametrize("verify", ["full", "size"])
def test_hashing_is_reported_in_the_same_pieces(
    probe: Probe, whole: Path, tmp_path: Path, verify: str
) -> None:
    root = shutil.copytree(whole, tmp_path / "bundle")
    (root / "unet/weights.bin").write_bytes(bytes(range(256)) * 4096 * 2 + b"and more")
    (root / "unet/weights.json").write_bytes(b"")
    refresh_manifest(root)
    found = assert_same(probe, root, verify)
    assert isinstance(found, dict)
    assert found["reports"].count(1 << 20) == (2 if verify == "full" else 0)


def test_every_file_damaged_in_every_way(probe: Probe, whole: Path, tmp_path: Path) -> None:
    names = list(Bundle.unchecked(whole).manifest.files)
    damages = damaged.of_files(names)
    assert len(damages) > 150
    assert_same_for_all(probe, whole, tmp_path, damages)


def test_names_that_lead_elsewhere(probe: Probe, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes((whole / TOKENIZER).read_bytes())
    assert_same_for_all(probe, whole, tmp_path, damaged.of_names())


def test_graphs_that_lead_elsewhere(probe: Probe, whole: Path, tmp_path: Path) -> None:
    assert_same_for_all(probe, whole, tmp_path, damaged.of_graphs())


def test_graphs_of_spoilt_bytes(probe: Probe, whole: Path, tmp_path: Path) -> None:
    assert_same_for_all(probe, whole, tmp_path, damaged.of_graph_bytes(80), refused=0.3)


def _write(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _many_folders(root: Path) -> Path:
    for number in range(120):
        (root / f"{number:03}").mkdir()
    _write(root / "110/manifest.json")
    return root


def _link(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p,
        lambda p: p / "missing",
        lambda p: p / "missing/deep",
        lambda p: _write(p / "model_index.json").parent,
        lambda p: _write(p / "check/unet/config.json").parents[1],
        lambda p: _write(p / "v1-inference.yaml").parent,
        lambda p: _write(p / "model.safetensors"),
        lambda p: _write(p / "model.tar.ckpt"),
        lambda p: _write(p / ".ckpt"),
        lambda p: _write(p / "model.CKPT"),
        lambda p: _write(p / "model.bin."),
        lambda p: _write(p / "x"),
        lambda p: _write(p / "bundle/manifest.json"),
        lambda p: _write(p / "x") / "below",
        lambda p: _write(p / "demo/manifest.json").parents[1],
        lambda p: _write(_write(p / "b/manifest.json").parents[1] / "a/manifest.json").parents[1],
        lambda p: _write(p / ".demo/manifest.json").parents[1],
        lambda p: (p / "demo/manifest.json").mkdir(parents=True) or p,
        lambda p: _many_folders(p),
        lambda p: _link(p / "nowhere", "gone"),
        lambda p: _link(p / "circle", "circle"),
        lambda p: _link(_link(p / "in", "manifest.json").parent / "manifest.json", "gone").parent,
        lambda p: p / ("x" * 300),
        lambda p: p / "\0",
        lambda p: p / "ü e\u0301 'quoted' \u202e",
        lambda p: f"{p}/./missing//x/../y/",
        lambda p: "/proc/self/mem",
        lambda p: "/dev/null",
        lambda p: "/",
        lambda p: "//",
        lambda p: "",
        lambda p: ".",
        lambda p: "..",
        lambda p: _write(p / "manifest.json", "[]").parent,
        lambda p: _write(p / "manifest.json", "{}").parent,
        lambda p: _write(p / "manifest.json", "").parent,
    ],
)
def test_what_is_no_bundle(probe: Probe, tmp_path: Path, make: Callable[[Path], object]) -> None:
    assert isinstance(assert_same(probe, make(tmp_path)), tuple)


def test_a_huge_manifest_is_not_read_whole(probe: Probe, tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as stream:
        stream.truncate(1 << 40)
    found = assert_same(probe, tmp_path)
    assert isinstance(found, tuple) and "16777217 bytes" in found[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(
    "name", [TOKENIZER, "unet", "manifest.json", ".", "vae_decoder/model.onnx"]
)
def test_what_may_not_be_read(probe: Probe, whole: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(whole, tmp_path / "bundle")
    (root / name).chmod(0)
    try:
        assert isinstance(assert_same(probe, root), tuple)
    finally:
        (root / name).chmod(0o700)


def test_a_disk_that_fails(probe: Probe) -> None:
    """The first page of a process' memory cannot be read."""
    record = FileRecord(0, "0" * 64)
    expected = outcome(lambda: verify_file("/proc/self", "mem", record))
    arguments: dict[str, object] = {"root": "/proc/self", "name": "mem", "bytes": 0}
    found = outcome(lambda: probe.ask("bundle.verify_file", **arguments, sha256="0" * 64))
    assert found == expected
    assert isinstance(expected, tuple) and "Input/output error" in expected[1]


def test_stopped_while_it_is_checked(probe: Probe, whole: Path) -> None:
    def stop() -> object:
        return probe.ask("bundle.open", path=str(whole), verify="full", stop_after=1)

    stopped = Cancelled("the check of the bundle was stopped")
    assert outcome(stop) == ("Cancelled", str(stopped))


class Both:
    """A bundle that both runtimes have open."""

    def __init__(self, probe: Probe, root: Path, verify: str = "full") -> None:
        self.bundle = Bundle.open(root, verify=verify)
        self._probe = probe
        self._number = probe.ask("bundle.open", path=str(root), verify=verify)["bundle"]

    def cpp(self, command: str, **arguments: object) -> object:
        """What C++ answers about the bundle."""
        ask = lambda: self._probe.ask(f"bundle.{command}", bundle=self._number, **arguments)  # noqa: E731
        return outcome(ask)

    def assert_same_file(self, name: str) -> object:
        """Both hand out the file `name`, or refuse it; returns Python's outcome."""
        path = outcome(lambda: str(self.bundle.path(name)))
        assert self.cpp("path", name=name) == path
        data = outcome(lambda: hashlib.sha256(self.bundle.read_bytes(name)).hexdigest())
        assert self.cpp("read_bytes", name=name) == data
        return path if isinstance(path, tuple) else data

    def assert_same_graph(self, name: str) -> object:
        """Both read the same from the graph `name`, or refuse it; returns Python's outcome."""
        expected: Any = outcome(
            lambda: {
                "files": list(self.bundle.files_of_graph(name)),
                "external": [
                    [t.tensor, t.location, t.offset, t.length]
                    for t in self.bundle.external_data(name)
                ],
            }
        )
        assert self.cpp("graph", graph=name) == expected
        return expected


def test_what_an_open_bundle_hands_out(probe: Probe, whole: Path) -> None:
    both = Both(probe, whole)
    for name in both.bundle.manifest.files:
        assert isinstance(both.assert_same_file(name), str)
        if name.endswith(".onnx"):
            both.assert_same_graph(name)
    graph = both.assert_same_graph(damaged.EXTERNAL)
    assert isinstance(graph, dict)
    assert graph["files"] == [damaged.EXTERNAL, "unet/weights.bin", "unet/weights.json"]
    for name in ("manifest.json", "unet/../unet/native.onnx", "/etc/passwd", "", "x'\n"):
        assert isinstance(both.assert_same_file(name), tuple)
        assert isinstance(both.assert_same_graph(name), tuple)


def _same_size_other_bytes(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, (1, 1))


def _touched(path: Path) -> None:
    os.utime(path, (2, 2))


@pytest.mark.parametrize("verify", ["full", "size"])
@pytest.mark.parametrize("name", [TOKENIZER, damaged.EXTERNAL, "unet/weights.bin"])
@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (_same_size_other_bytes, True),
        (_touched, False),
        (lambda path: path.unlink(), True),
        (lambda path: os.truncate(path, 1), True),
        (lambda path: os.link(path, path.with_suffix(".twin")), True),
        (lambda path: damaged.hostile.symbolic_link(path, path.parents[2] / "outside"), True),
        (lambda path: shutil.rmtree(path.parents[1]), True),
    ],
)
def test_a_file_that_changes_after_opening(
    probe: Probe,
    whole: Path,
    tmp_path: Path,
    change: Callable[[Path], object],
    name: str,
    verify: str,
    refused: bool,
) -> None:
    both = Both(probe, shutil.copytree(whole, tmp_path / "bundle"), verify)
    change(both.bundle.root / name)
    path = both.assert_same_file(name)
    # Where nothing was hashed, only reading can tell that the bytes are others.
    assert isinstance(path, tuple) == refused
    if name == damaged.EXTERNAL:
        both.assert_same_graph(name)
