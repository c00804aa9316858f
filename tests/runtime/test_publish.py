"""Writing: a file or a bundle is there whole, or not there."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys

import pytest

from fam_runtime.bundle import (
    Bundle,
    Manifest,
    add_files,
    file_record,
    publish,
    publish_directory,
    write_atomically,
)
from fam_runtime.errors import BundleNotFound, ExportError, StorageError
from tests.runtime.fake_bundle import write_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "whole")


@pytest.fixture
def bundle(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_writes_bytes_and_what_a_function_writes(tmp_path):
    write_atomically(tmp_path / "a", b"abc")
    write_atomically(str(tmp_path / "b"), lambda stream: stream.write(b"def"))
    assert (tmp_path / "a").read_bytes() == b"abc"
    assert (tmp_path / "b").read_bytes() == b"def"
    assert names_in(tmp_path) == ["a", "b"]


def test_the_longest_name(tmp_path):
    write_atomically(tmp_path / ("é" * 127), b"abc")
    assert names_in(tmp_path) == ["é" * 127]


@pytest.mark.parametrize("place", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, place):
    (tmp_path / "a").write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    content = (lambda stream: full()) if place == "write" else b"new content"
    if place == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"no space left .*\d+ bytes free") as caught:
        write_atomically(tmp_path / "a", content)
    if place == "fsync":
        assert "expected 11 bytes free" in str(caught.value)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_a_real_limit(tmp_path):
    """The system refuses to write more than 4 KiB into a file."""
    code = (
        "import resource, signal, sys\n"
        "from fam_runtime.bundle.publish import write_atomically\n"
        "from fam_runtime.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomically(sys.argv[1], bytes(100_000))\n"
        "except StorageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "big")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "big failed" in done.stdout and "File too large" in done.stdout
    assert names_in(tmp_path) == []


def test_an_error_of_the_writer_and_ctrl_c_leave_nothing(tmp_path):
    for error in (ValueError, KeyboardInterrupt):

        def write(stream, error=error):
            stream.write(b"half")
            raise error

        with pytest.raises(error):
            write_atomically(tmp_path / "a", write)
    assert names_in(tmp_path) == []


def test_a_place_that_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in ("folder", "missing/a"):
        with pytest.raises(StorageError, match="failed"):
            write_atomically(tmp_path / place, b"abc")
    assert names_in(tmp_path) == ["folder"]


def test_temporary_names_are_never_followed_or_shared(tmp_path, monkeypatch):
    """Somebody else's link or file under the temporary name stays as it is."""
    monkeypatch.setattr(publish.secrets, "token_hex", lambda _: "0123")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "a.0123.partial").symlink_to(victim)
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "a", b"evil")
    assert victim.read_bytes() == b"precious"


def test_two_writers_of_one_file(tmp_path):
    def outer(stream):
        stream.write(b"outer ")
        write_atomically(tmp_path / "a", b"inner")
        assert (tmp_path / "a").read_bytes() == b"inner"
        stream.write(b"outer")

    write_atomically(tmp_path / "a", outer)
    assert (tmp_path / "a").read_bytes() == b"outer outer"


def test_publishes_to_a_new_place_or_an_empty_folder(whole, tmp_path):
    for place in (tmp_path / "new/deep/demo", tmp_path / "empty"):
        if place.name == "empty":
            place.mkdir()
        staged = shutil.copytree(whole, tmp_path / "staged")
        publish_directory(staged, place)
        Bundle.open(place)
        assert not staged.exists()


@pytest.mark.parametrize("there", ["file", "folder", "link", "dangling"])
def test_refuses_an_existing_place(whole, tmp_path, there):
    place = tmp_path / "demo"
    if there == "file":
        place.write_bytes(b"mine")
    elif there == "folder":
        (place / "mine").mkdir(parents=True)
    else:
        place.symlink_to(tmp_path / "elsewhere")
        if there == "link":
            (tmp_path / "elsewhere").mkdir()
    staged = shutil.copytree(whole, tmp_path / "staged")
    with pytest.raises(ExportError, match="demo exists already.*choose another --output"):
        publish_directory(staged, place)
    Bundle.open(staged)
    assert os.path.lexists(place)


def without_last_target(root):
    """Take a target out of the bundle; returns its staged files and the manifest with it."""
    full = Manifest.from_bytes((root / "manifest.json").read_bytes())
    target = full.targets[-1]
    names = {target.step, target.upsample, target.kernels}
    staged = root.parent / "staged"
    for name in names:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(staged / name)
    small = dataclasses.replace(
        full,
        targets=full.targets[:-1],
        files={k: v for k, v in full.files.items() if k not in names},
        graphs={k: v for k, v in full.graphs.items() if k not in names},
    )
    (root / "manifest.json").write_bytes(small.to_bytes())
    return staged, full


def test_adds_files_and_then_the_manifest(bundle):
    staged, full = without_last_target(bundle)
    (staged / "unlisted").write_bytes(b"")
    add_files(bundle, staged, full)
    assert Bundle.open(bundle).manifest == full
    assert not (bundle / "unlisted").exists()


def test_adds_files_across_disks(bundle, monkeypatch):
    staged, full = without_last_target(bundle)
    replace = type(staged).replace

    def refuse(source, target):
        if staged in source.parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(source, target)

    monkeypatch.setattr(type(staged), "replace", refuse)
    add_files(bundle, staged, full)
    assert Bundle.open(bundle).manifest == full


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_kill_before_the_manifest_leaves_the_old_bundle(bundle, monkeypatch, moves):
    old = Bundle.open(bundle).hash
    staged, full = without_last_target(bundle)
    old = Bundle.open(bundle).hash
    done = []
    move = publish._move

    def killed(source, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        move(source, target)

    monkeypatch.setattr(publish, "_move", killed)
    if moves == 3:  # all files are there, the manifest is not
        monkeypatch.setattr(publish, "write_atomically", lambda *_: killed(None, None))
    with pytest.raises(KeyboardInterrupt):
        add_files(bundle, staged, full)
    assert Bundle.open(bundle).hash == old
    monkeypatch.undo()
    for path in done:  # the next export makes them again
        shutil.copy(path, staged / path.relative_to(bundle))
    add_files(bundle, staged, full)
    assert Bundle.open(bundle).manifest == full


def test_published_files_never_change(bundle):
    staged, full = without_last_target(bundle)
    before = names_in(bundle)
    (staged / "vae_decoder").mkdir()
    (staged / "vae_decoder/model.onnx").write_bytes(b"other")
    record = file_record(staged / "vae_decoder/model.onnx")
    changed = dataclasses.replace(full, files={**full.files, "vae_decoder/model.onnx": record})
    with pytest.raises(ExportError, match="vae_decoder/model.onnx is published and cannot be"):
        add_files(bundle, staged, changed)
    assert names_in(bundle) == before
    Bundle.open(bundle)


def test_a_manifest_never_lists_what_is_not_there(bundle):
    staged, full = without_last_target(bundle)
    (staged / full.targets[-1].kernels).write_bytes(b"short")
    with pytest.raises(ExportError, match="is not staged as the new manifest lists it.*5 bytes"):
        add_files(bundle, staged, full)
    (staged / full.targets[-1].kernels).unlink()
    with pytest.raises(ExportError, match="is not staged.*no file"):
        add_files(bundle, staged, full)
    Bundle.open(bundle)


def test_adds_only_to_a_bundle(bundle, tmp_path):
    _, full = without_last_target(bundle)
    with pytest.raises(BundleNotFound):
        add_files(tmp_path, tmp_path / "staged", full)
