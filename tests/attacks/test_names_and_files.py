"""Bundles whose names or files lead elsewhere, or that are not what the manifest lists."""

from __future__ import annotations

import os

import pytest

from fam_runtime.bundle import Bundle
from fam_runtime.errors import BundleDamaged, BundlePathRefused
from tests.attacks import hostile

TOKENIZER = "tokenizer/tokenizer.json"


HOSTILE_NAMES = [
    ("../outside", r"component '\.\.'"),
    ("unet/../../outside", r"component '\.\.'"),
    ("./unet/x", r"component '\.'"),
    ("unet//x", "component ''"),
    ("unet/", "component ''"),
    ("/etc/passwd", "absolute"),
    ("C:/x", "backslash, a colon or a control"),
    ("unet\\..\\x", "backslash, a colon or a control"),
    ("x\0y", "control character"),
    ("x\ny", "control character"),
    ("x\u202ey", "control character"),
    ("unet /x", "dot or a space"),
    ("unet/x.", "dot or a space"),
    ("a" * 256, "component is longer than 255 bytes"),
    ("é" * 128, "component is longer than 255 bytes"),
    ("a/" * 256 + "a", "longer than 512"),
]


@pytest.mark.parametrize(("name", "why"), HOSTILE_NAMES)
def test_names_that_leave_the_bundle(bundle, name, why):
    (bundle.parent / "outside").write_bytes((bundle / TOKENIZER).read_bytes())
    hostile.rename_file(bundle, TOKENIZER, name)
    with pytest.raises((BundlePathRefused, BundleDamaged), match=why) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value) and "\u202e" not in str(caught.value)


def test_an_empty_name(bundle):
    hostile.rename_file(bundle, TOKENIZER, "")
    with pytest.raises(BundleDamaged, match="text of 1 to"):
        Bundle.open(bundle)


@pytest.mark.parametrize("verify", ["full", "size"])
@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (hostile.symbolic_link, BundlePathRefused, "is a link .*cp -rL"),
        (hostile.linked_directory, BundlePathRefused, "^tokenizer of the bundle is a link"),
        (hostile.hard_link, BundlePathRefused, "hard links.*2 names"),
        (hostile.pipe, BundlePathRefused, "not a plain file.*a pipe"),
        (hostile.directory, BundlePathRefused, "not a plain file.*a directory"),
        (hostile.file_for_folder, BundlePathRefused, "on the way to a file"),
        (lambda path, _: path.unlink(), BundleDamaged, "missing.*export it again"),
    ],
)
def test_files_that_are_not_plain(bundle, spoil, error, text, verify):
    spoil(bundle / TOKENIZER, bundle.parent / "outside")
    with pytest.raises(error, match=text):
        Bundle.open(bundle, verify=verify)


def test_a_manifest_that_is_a_link(bundle):
    hostile.symbolic_link(bundle / "manifest.json", bundle.parent / "outside")
    with pytest.raises(BundlePathRefused, match="manifest.json of the bundle is a link"):
        Bundle.open(bundle)


def test_a_file_that_becomes_a_link_after_opening(bundle):
    opened = Bundle.open(bundle)
    hostile.symbolic_link(bundle / TOKENIZER, bundle.parent / "outside")
    for read in (opened.path, opened.read_bytes):
        with pytest.raises(BundlePathRefused, match="is a link"):
            read(TOKENIZER)


def test_a_swap_between_the_check_and_the_opening(bundle, monkeypatch):
    """The checks of the path see a plain file; the opening must still not follow the link."""
    from fam_runtime.bundle import paths

    hostile.symbolic_link(bundle / TOKENIZER, bundle.parent / "outside")
    monkeypatch.setattr(paths, "confined_path", lambda root, name: root / name)
    with pytest.raises(BundlePathRefused, match="changed while it was opened"):
        paths.open_confined(bundle, TOKENIZER)


@pytest.mark.parametrize("name", ["unet/native.onnx", "unet/weights.bin", TOKENIZER, "fm"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_byte(bundle, name, where):
    name = "fm/kernels-128x128.safetensors" if name == "fm" else name
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleDamaged, match=f"{name} of the bundle has another content .*SHA-256"):
        Bundle.open(bundle)


def test_every_listed_file_is_hashed(bundle):
    for name in Bundle.open(bundle).manifest.files:
        path = bundle / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 0x80]))
        with pytest.raises(BundleDamaged, match=f"{name} .*SHA-256"):
            Bundle.open(bundle)
        path.write_bytes(data)


@pytest.mark.parametrize("verify", ["full", "size"])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length(bundle, change, verify):
    path = bundle / "unet/native.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1] if change < 0 else data + b"\0")
    expected = rf"got '{len(data) + change} bytes' \| expected {len(data)} bytes"
    with pytest.raises(BundleDamaged, match=expected):
        Bundle.open(bundle, verify=verify)


def test_unlisted_files_are_ignored(bundle):
    digest = Bundle.open(bundle).hash
    (bundle / "unet/evil.onnx").symlink_to("/etc/passwd")
    (bundle / "note.txt").write_text("hello")
    opened = Bundle.open(bundle)
    assert opened.hash == digest
    for name in ("note.txt", "../secret", "manifest.json"):
        with pytest.raises(BundleDamaged, match="does not list this file.*expected a listed file"):
            opened.path(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(bundle):
    (bundle / TOKENIZER).chmod(0)
    with pytest.raises(BundleDamaged, match="cannot be read.*permissions"):
        Bundle.open(bundle)


def test_a_disk_that_fails(bundle, monkeypatch):
    from fam_runtime.bundle import integrity

    def fail(stream, progress):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(integrity, "_hashed", fail)
    with pytest.raises(BundleDamaged, match="cannot be read.*Input/output error"):
        Bundle.open(bundle)
