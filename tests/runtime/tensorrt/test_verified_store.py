"""Nothing that was truncated, altered or written by somebody else comes out of the store."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fam_runtime.backends.tensorrt.verified_store import Damaged, VerifiedStore
from fam_runtime.errors import BackendError

NAME = "a/file.plan"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> VerifiedStore:
    store = VerifiedStore(tmp_path / "store")
    store.write(NAME, CONTENT, {"of": "a test"})
    return store


def test_what_was_written_comes_back(store: VerifiedStore) -> None:
    found = store.read(NAME)
    assert found is not None
    assert bytes(found.data) == CONTENT
    assert found.details == {"of": "a test"}
    assert store.names("*/*.plan") == [NAME]
    assert store.read("a/other.plan") is None
    assert VerifiedStore(store.root / "nowhere").read(NAME) is None


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_everything_is_for_its_user_only(tmp_path: Path, mask: int) -> None:
    """Whatever the umask: on many systems a user's group may write."""
    before = os.umask(mask)
    try:
        store = VerifiedStore(tmp_path / "new" / "store")
        store.write("a/b/file.plan", CONTENT, {})
        assert store.read("a/b/file.plan") is not None
        with store.locked("a/b/file.plan"):
            modes = [path.stat().st_mode for path in (store.root, *store.root.rglob("*"))]
    finally:
        os.umask(before)
    assert len(modes) == 6
    assert not any(mode & 0o077 for mode in modes)


def truncate(file: Path) -> None:
    os.truncate(file, 100)


def alter(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def open_to_others(file: Path) -> None:
    file.chmod(0o666)


def link(file: Path) -> None:
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


def spoil_record(text: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.with_name(file.name + ".json").write_text(text)

    return spoil


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "file.plan has 100 bytes, and 10240 were written"),
        (empty, "file.plan has 0 bytes, and 10240 were written"),
        (alter, "file.plan was altered after it was written"),
        (open_to_others, "file.plan may be written by others"),
        (link, "file.plan cannot be read"),
        (spoil_record("{"), "file.plan.json cannot be read"),
        (spoil_record("3"), "file.plan.json cannot be read"),
        (spoil_record('{"bytes": 1, "details": {}}'), "file.plan.json cannot be read"),
        (spoil_record('{"bytes": true, "details": {}, "sha256": ""}'), "json cannot be read"),
        (spoil_record("[" * 500_000), "file.plan.json cannot be read"),
    ],
)
def test_damage_is_refused(
    store: VerifiedStore, damage: Callable[[Path], None], message: str
) -> None:
    damage(store.root / NAME)
    with pytest.raises(Damaged, match=message):
        store.read(NAME)
    store.write(NAME, CONTENT[::-1], {})
    found = store.read(NAME)
    assert found is not None
    assert bytes(found.data) == CONTENT[::-1]


def test_a_write_that_was_killed_leaves_nothing_to_read(
    store: VerifiedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(NAME, b"new", {})
    monkeypatch.undo()
    assert store.read(NAME) is None
    assert [file.name for file in (store.root / "a").iterdir()] == ["file.plan"]


@pytest.mark.parametrize("folder", ["", "a", "a/b"])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, folder: str) -> None:
    store = VerifiedStore(tmp_path / "store")
    store.write("a/b/file.plan", b"x", {})
    (store.root / folder).chmod(0o777)
    uses: list[Callable[[], object]] = [
        lambda: store.read("a/b/file.plan"),
        lambda: store.write("a/b/file.plan", b"", {}),
    ]
    for use in uses:
        with pytest.raises(BackendError, match=r"engine cache .* not safe.*chmod -R go-w"):
            use()


def test_a_link_below_the_root_is_refused(store: VerifiedStore, tmp_path: Path) -> None:
    (store.root / "a").rename(tmp_path / "elsewhere")
    (store.root / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match="is not safe"):
        store.read(NAME)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_refused_without_waiting(
    store: VerifiedStore, make: Callable[[Path], None]
) -> None:
    path = store.root / NAME
    path.unlink()
    make(path)
    path.chmod(0o600)
    with pytest.raises(Damaged):
        store.read(NAME)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store = VerifiedStore(tmp_path / "nowhere")
    assert store.read(NAME) is None
    assert not store.root.exists()


def test_a_place_that_is_no_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"engine cache .*file is no folder.*--cache-dir"):
        VerifiedStore(tmp_path / "file").check()
    VerifiedStore(tmp_path / "store").check()
    assert not list((tmp_path / "store").iterdir())


def _write_when_free(root: Path, said: multiprocessing.Queue[str]) -> None:
    store = VerifiedStore(root)
    with store.locked("one", lambda: said.put("waits")):
        said.put("has it")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    said: multiprocessing.Queue[str] = context.Queue()
    with VerifiedStore(tmp_path).locked("one"):
        other = context.Process(target=_write_when_free, args=(tmp_path, said))
        other.start()
        assert said.get(timeout=60) == "waits"
        assert said.empty()
    assert said.get(timeout=60) == "has it"
    other.join(timeout=60)
    assert other.exitcode == 0
