"""Opening bundles: what is found, verified and handed out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from fam_runtime.bundle import Bundle, file_record, verify_file
from fam_runtime.errors import BundleDamaged, BundleNotFound, BundlePathRefused, InvalidRequest
from tests.runtime.fake_bundle import refresh_manifest, write_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "whole")


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def test_opens_through_a_link_and_from_text(whole, tmp_path):
    (tmp_path / "link").symlink_to(whole)
    assert Bundle.open(str(tmp_path / "link")).hash == Bundle.open(whole).hash
    assert Bundle.open(whole).hash == file_record(whole / "manifest.json").sha256


def test_progress_counts_every_byte(whole):
    seen = []
    bundle = Bundle.open(whole, progress=seen.append)
    assert sum(seen) == sum(record.bytes for record in bundle.manifest.files.values())
    seen.clear()
    Bundle.open(whole, verify="size", progress=seen.append)
    assert seen == []


def test_size_only_does_not_hash(root):
    path = root / "tokenizer/tokenizer.json"
    path.write_bytes(bytes(path.stat().st_size))
    Bundle.open(root, verify="size")
    with pytest.raises(BundleDamaged, match="another content"):
        Bundle.open(root)


def test_unknown_verify(whole):
    with pytest.raises(InvalidRequest, match="'full' or 'size'"):
        Bundle.open(whole, verify="none")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: p / "missing", "there is no bundle at .*fam-export"),
        (lambda p: p, "is not a bundle"),
        (lambda p: _written(p / "model_index.json").parent, "is a checkpoint.*fam-export --model"),
        (lambda p: _written(p / "model.safetensors"), "file of weights"),
        (lambda p: _written(p / "demo/manifest.json").parent.parent, "did you mean .*demo"),
        (lambda p: _written(p / "x"), "is a file, not a bundle"),
        (lambda p: p / "\0", "there is no bundle|cannot be read"),
        (lambda p: p / ("x" * 300), "there is no bundle|cannot be read"),
    ],
)
def test_what_is_no_bundle(tmp_path, make, text):
    with pytest.raises(BundleNotFound, match=text):
        Bundle.open(make(tmp_path))


def _written(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    return path


def test_a_huge_manifest_is_not_read_whole(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BundleDamaged, match="at most 16777216 bytes"):
        Bundle.open(tmp_path)


def test_paths_and_bytes_of_listed_files_only(whole):
    bundle = Bundle.open(whole)
    assert bundle.path("unet/native.onnx") == whole / "unet/native.onnx"
    data = bundle.read_bytes("tokenizer/tokenizer.json")
    assert data == (whole / "tokenizer/tokenizer.json").read_bytes()
    for name in ("manifest.json", "unet/../unet/native.onnx", "/etc/passwd", ""):
        for read in (bundle.path, bundle.read_bytes):
            with pytest.raises(BundleDamaged, match="does not list this file"):
                read(name)


def test_a_file_that_changes_after_opening(root):
    """Same size and another content: noticed by its time, and told by its hash."""
    bundle = Bundle.open(root)
    path = root / "unet/native.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, (1, 1))
    for read in (bundle.path, bundle.read_bytes):
        with pytest.raises(BundleDamaged, match="another content"):
            read("unet/native.onnx")


def test_large_files_are_not_read_whole(whole, monkeypatch):
    monkeypatch.setattr("fam_runtime.bundle.reader.MAX_READ_BYTES", 10)
    with pytest.raises(BundleDamaged, match="too large to be read whole.*at most 10 bytes"):
        Bundle.open(whole).read_bytes("unet/native.onnx")


def test_verify_file(root):
    record = file_record(root / "unet/native.onnx")
    verify_file(root, "unet/native.onnx", record)
    with pytest.raises(BundlePathRefused):
        verify_file(root, "../x", record)


def test_kernel_tables(whole):
    bundle = Bundle.open(whole)
    target = bundle.manifest.targets[1]
    tables = bundle.kernel_tables(target)
    assert tables.rows.shape == (100, 16)
    assert tables.columns.shape == (100, 32)
    assert tables.weight.shape == (100,)
    np.testing.assert_array_equal(tables.rows, load_file(whole / target.kernels)["rows"])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda t: t.pop("weight"), "a table 'weight'"),
        (lambda t: t.update(rows=t["rows"][:, :-1].copy()), r"rows F32 \(100, 15\).*16"),
        (lambda t: t.update(rows=t["rows"].astype(np.float64)), "rows F64"),
        (lambda t: t["columns"].__setitem__((0, 0), np.nan), "columns holds NaN"),
        (lambda t: t["weight"].__setitem__(0, np.inf), "weight holds NaN or infinity"),
    ],
)
def test_kernel_tables_that_are_not_right(root, spoil, text):
    name = Bundle.open(root).manifest.targets[0].kernels
    tables = {key: table.copy() for key, table in load_file(root / name).items()}
    spoil(tables)
    save_file(tables, root / name)
    refresh_manifest(root)
    bundle = Bundle.open(root)
    with pytest.raises(BundleDamaged, match=f"{name} of the bundle is not a table.*{text}"):
        bundle.kernel_tables(bundle.manifest.targets[0])


def test_kernels_that_are_no_safetensors(root):
    name = Bundle.open(root).manifest.targets[0].kernels
    (root / name).write_bytes(b"{}")
    refresh_manifest(root)
    bundle = Bundle.open(root)
    with pytest.raises(BundleDamaged, match=f"{name} of the bundle is not a safetensors file"):
        bundle.kernel_tables(bundle.manifest.targets[0])


@pytest.fixture(scope="module")
def with_weights(tmp_path_factory):
    """A bundle whose native graph keeps a tensor in weights.bin."""
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "weights")
    graph = onnx.load(root / "unet/native.onnx")
    tensor = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (root / "unet/weights.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    (root / "unet/native.onnx").write_bytes(graph.SerializeToString())
    (root / "unet/weights.json").write_text("{}")
    refresh_manifest(root)
    return root


NATIVE_PART = ("unet/native.onnx", "unet/weights.bin", "unet/weights.json")


@pytest.fixture
def part(with_weights, tmp_path):
    """A folder with the manifest, one graph, what that graph reads, and nothing else."""
    for name in ("manifest.json", *NATIVE_PART):
        target = tmp_path / "part" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(with_weights / name, target)
    return tmp_path / "part"


def test_a_part_has_the_hash_of_the_whole_and_hands_out_what_it_holds(part, with_weights):
    seen = []
    bundle = Bundle.open(part, only=["unet/native.onnx"], progress=seen.append)
    assert bundle.hash == Bundle.open(with_weights).hash
    assert bundle.files_of_graph("unet/native.onnx") == NATIVE_PART
    assert sum(seen) == sum(bundle.manifest.files[name].bytes for name in NATIVE_PART)
    for name in NATIVE_PART:
        assert bundle.path(name) == part / name
    with pytest.raises(BundleDamaged, match="is missing from the bundle"):
        Bundle.open(part)


def test_a_part_does_not_hand_out_what_it_did_not_check(with_weights):
    bundle = Bundle.open(with_weights, only=["tokenizer/tokenizer.json"])
    bundle.read_bytes("tokenizer/tokenizer.json")
    for use in (bundle.path, bundle.read_bytes, bundle.files_of_graph):
        with pytest.raises(BundleDamaged, match="left out.*got 'unet/native.onnx'.*one of tokeni"):
            use("unet/native.onnx")
    with pytest.raises(BundleDamaged, match="does not list this file"):
        Bundle.open(with_weights, only=["unet/missing.onnx"])


@pytest.mark.parametrize("name", NATIVE_PART)
@pytest.mark.parametrize(
    ("spoil", "verify", "text"),
    [
        (lambda p: p.unlink(), "size", "is missing from the bundle"),
        (lambda p: os.truncate(p, p.stat().st_size - 1), "size", "bytes"),
        (lambda p: p.write_bytes(bytes(p.stat().st_size)), "full", "another content"),
    ],
)
def test_every_file_that_a_graph_reads_is_verified_with_it(part, name, spoil, verify, text):
    spoil(part / name)
    with pytest.raises(BundleDamaged, match=f"{name}.*{text}"):
        Bundle.open(part, verify=verify, only=["unet/native.onnx"])
