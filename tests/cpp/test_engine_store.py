"""Files of the engine cache: each runtime reads those of the other, and none that is unsafe."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fam_runtime.backends.tensorrt.verified_store import Damaged, VerifiedStore
from fam_runtime.errors import FamError
from tests.cpp.conftest import built
from tests.cpp.probe import CppError, Probe
from tests.runtime.tensorrt.test_verified_store import (
    alter,
    empty,
    link,
    open_to_others,
    truncate,
)

NAME = "a/file.plan"
CONTENT = bytes(range(256)) * 40
DETAILS = {"of": "a test", "gpu": "…", "numbers": [1, 0.5, None], "empty": {}, "none": []}


@pytest.fixture
def store(tmp_path: Path) -> VerifiedStore:
    store = VerifiedStore(tmp_path / "store")
    store.write(NAME, CONTENT, DETAILS)
    return store


def read(probe: Probe, store: VerifiedStore, name: str = NAME) -> tuple[bytes, Any] | str:
    """Content and details, or what is wrong; empty: there is no such file."""
    to = store.root.parent / "read by the probe"
    got = probe.ask("tensorrt.store_read", root=str(store.root), name=name, to=str(to))
    return got["damage"] if "damage" in got else (to.read_bytes(), got["details"])


def test_each_runtime_reads_what_the_other_wrote(probe: Probe, store: VerifiedStore) -> None:
    assert read(probe, store) == (CONTENT, DETAILS)
    source = store.root.parent / "source"
    source.write_bytes(CONTENT)
    there = probe.ask(
        "tensorrt.store_write",
        root=str(store.root),
        name="a/other.plan",
        details=DETAILS,
        **{"from": str(source)},
    )
    assert there == str(store.root / "a/other.plan")
    found = store.read("a/other.plan")
    assert found is not None
    assert (bytes(found.data), found.details) == (CONTENT, DETAILS)
    records = [store.root / f"a/{name}.plan.json" for name in ("file", "other")]
    assert records[0].read_bytes() == records[1].read_bytes()
    assert read(probe, store, "a/nothing.plan") == ""
    assert read(probe, VerifiedStore(store.root / "nowhere")) == ""


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_everything_is_for_its_user_only(tmp_path: Path, mask: int) -> None:
    """Whatever the umask: on many systems a user's group may write."""
    source, root = tmp_path / "source", tmp_path / "new" / "store"
    source.write_bytes(CONTENT)
    before = os.umask(mask)
    try:
        with Probe(built("fam_probe")) as probe:
            probe.ask(
                "tensorrt.store_write",
                root=str(root),
                name="a/b/file.plan",
                details={},
                **{"from": str(source)},
            )
    finally:
        os.umask(before)
    modes = [path.stat().st_mode for path in (root, *root.rglob("*"))]
    assert len(modes) == 5
    assert not any(mode & 0o077 for mode in modes)
    assert VerifiedStore(root).read("a/b/file.plan") is not None


def link_record(file: Path) -> None:
    link(file.with_name(file.name + ".json"))


def open_record(file: Path) -> None:
    open_to_others(file.with_name(file.name + ".json"))


def spoil_record(text: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.with_name(file.name + ".json").write_text(text)

    return spoil


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        alter,
        empty,
        open_to_others,
        link,
        link_record,
        open_record,
        spoil_record('{"bytes": 1, "details": {}}'),
        spoil_record('{"bytes": true, "details": {}, "sha256": ""}'),
        spoil_record('{"bytes": 1.0, "details": {}, "sha256": ""}'),
        spoil_record('{"bytes": 1, "details": [], "sha256": ""}'),
        spoil_record('{"bytes": 1, "details": {}, "sha256": 1}'),
        spoil_record("3"),
        spoil_record(" " * (1 << 20) + "3"),
    ],
)
def test_damage_is_told_in_the_same_words(
    probe: Probe, store: VerifiedStore, damage: Callable[[Path], None]
) -> None:
    damage(store.root / NAME)
    with pytest.raises(Damaged) as python:
        store.read(NAME)
    assert read(probe, store) == str(python.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 500_000, '{"a":' * 100_000, "\xff", '{"bytes": NaN, "details": {}}']
)
def test_a_record_that_is_no_json_is_refused(probe: Probe, store: VerifiedStore, text: str) -> None:
    """The words of the parsers differ."""
    (store.root / f"{NAME}.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Damaged, match=r"file.plan.json cannot be read \("):
        store.read(NAME)
    got = read(probe, store)
    assert isinstance(got, str)
    assert got.startswith("file.plan.json cannot be read (it is no ")


def same_error(probe: Probe, command: str, python: Callable[[], object], **inputs: object) -> str:
    """The error that both raise."""
    with pytest.raises(FamError) as expected:
        python()
    with pytest.raises(CppError) as got:
        probe.ask(command, **inputs)
    assert (got.value.kind, got.value.text) == (
        type(expected.value).__name__,
        str(expected.value),
    )
    return got.value.text


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o4707, 0o2770, 0o1777, 0o3022])
@pytest.mark.parametrize("folder", ["", "a", "a/b"])
def test_a_folder_that_others_may_write_is_refused(
    probe: Probe, tmp_path: Path, folder: str, mode: int
) -> None:
    store = VerifiedStore(tmp_path / "store")
    store.write("a/b/file.plan", b"x", {})
    source = tmp_path / "source"
    source.write_bytes(b"")
    (store.root / folder).chmod(mode)
    read_it = {"root": str(store.root), "name": "a/b/file.plan", "to": str(tmp_path / "to")}
    text = same_error(probe, "tensorrt.store_read", lambda: store.read("a/b/file.plan"), **read_it)
    assert "is not safe" in text
    write_it = {**read_it, "from": str(source), "details": {}}
    same_error(
        probe, "tensorrt.store_write", lambda: store.write("a/b/file.plan", b"", {}), **write_it
    )


def test_a_link_below_the_root_is_refused_and_the_root_may_be_one(
    probe: Probe, store: VerifiedStore, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store.root)
    assert read(probe, VerifiedStore(tmp_path / "link")) == (CONTENT, DETAILS)
    (store.root / "a").rename(tmp_path / "elsewhere")
    (store.root / "a").symlink_to(tmp_path / "elsewhere")
    same_error(
        probe,
        "tensorrt.store_read",
        lambda: store.read(NAME),
        root=str(store.root),
        name=NAME,
        to=str(tmp_path / "to"),
    )


def test_a_place_that_is_no_folder_is_refused(probe: Probe, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    same_error(
        probe,
        "tensorrt.store_write",
        lambda: VerifiedStore(file).write(NAME, b"", {}),
        root=str(file),
        name=NAME,
        details={},
        **{"from": str(file)},
    )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_read_or_waited_for(
    probe: Probe, store: VerifiedStore, make: Callable[[Path, int], None]
) -> None:
    (store.root / NAME).unlink()
    make(store.root / NAME, 0o700)
    assert read(probe, store) == "file.plan has 0 bytes, and 10240 were written"
