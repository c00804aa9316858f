"""External data: what the reader without ONNX sees is what the onnx package sees."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from fam_runtime.bundle.onnx_external_data import (
    external_locations,
    outline_of_onnx,
)
from fam_runtime.errors import BundleDamaged
from tests.attacks.hostile import PLACES, external_tensor
from tests.runtime.fake_bundle import write_bundle

DEMO = Path(__file__).parents[2] / "engines/demo"


def seen_in(data):
    return {(t.location, t.offset, t.length) for t in outline_of_onnx(data, name="x").external}


def according_to_onnx(model):
    """Initializers and attributes in graph order, as the onnx package reads them."""
    infos = [ExternalDataInfo(t) for t in _get_all_tensors(model) if uses_external_data(t)]
    return {(i.location, i.offset or 0, i.length) for i in infos}


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "sd")
    model = onnx.load(root / "unet/native.onnx")
    for index, (place, put) in enumerate(PLACES.items()):
        if place in ("initializer", "attribute", "subgraph"):  # what the onnx package walks, too
            put(model, external_tensor(f"file{index}", offset=64 * index, length=4))
    return model.SerializeToString()


def test_agrees_with_the_onnx_package(model_bytes):
    expected = according_to_onnx(onnx.load_from_string(model_bytes))
    assert len(expected) == 3
    assert seen_in(model_bytes) == expected
    assert external_locations(memoryview(model_bytes)) == {e[0] for e in expected}


@pytest.mark.skipif(not DEMO.is_dir(), reason="engines/demo is not built")
def test_agrees_with_the_onnx_package_on_exported_graphs():
    for path in sorted(DEMO.rglob("*.onnx")):
        data = path.read_bytes()
        assert seen_in(data) == according_to_onnx(onnx.load_from_string(data)), path


def test_every_place_is_seen():
    for put in PLACES.values():
        model = onnx.ModelProto()
        model.graph.node.add()
        put(model, external_tensor("there"))
        assert external_locations(model.SerializeToString()) == {"there"}


def test_a_model_has_one_graph():
    assert external_locations(b"\x3a\0") == set()
    for data in (b"", b"\x3a\0\x3a\0"):  # parsers merge two graphs into one
        with pytest.raises(BundleDamaged, match=r"holds [02] graphs"):
            external_locations(data)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes(data):
    _set_or_damaged(data)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_spoilt_models(model_bytes, data):
    spoilt = bytearray(model_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(spoilt)))
    bytes_ = bytes(spoilt[: cut if data.draw(st.booleans()) else None])
    seen = _set_or_damaged(bytes_)
    try:
        model = onnx.load_from_string(bytes_)
        expected = {e[0] for e in according_to_onnx(model)}
    except Exception:
        return  # the onnx package cannot read it
    if seen is not None:
        assert expected <= seen


def _set_or_damaged(data):
    try:
        locations = external_locations(data)
    except BundleDamaged as error:
        assert "a graph of the bundle is not a well-formed ONNX file" in str(error)
        return None
    assert all(isinstance(location, str) for location in locations)
    return locations


def test_nesting_without_end():
    data = b""
    for _ in range(100):  # a node in a graph in an attribute of a node ...
        for key in (b"\x32", b"\x2a", b"\x0a"):
            data = key + _length(data) + data
    with pytest.raises(BundleDamaged, match="nest too deep"):
        external_locations(b"\x3a" + _length(data) + data)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("offset", "0")], "has no location"),
        ([("location", "a"), ("location", "b")], "each known key once"),
        ([("location", "a"), ("offset", "-1")], "decimal digits"),
        ([("location", "a"), ("length", "1e3")], "decimal digits"),
        ([("location", "a"), ("length", "9" * 20)], "decimal digits"),
    ],
)
def test_ambiguous_entries(entries, why):
    model = onnx.ModelProto()
    tensor = model.graph.initializer.add()
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(BundleDamaged, match=rf"unet/x\.onnx is not a well-formed.*{why}"):
        external_locations(model.SerializeToString(), name="unet/x.onnx")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x02\x00", "field number"),
        (b"\xfa\xff\xff\xff\x7f\x00", "field number"),
        (b"\x09\x00", "a length of 8"),
        (b"\x0d\x00", "a length of 4"),
        (b"\x08", "malformed number"),
        (b"\x08" + b"\xff" * 11, "varint of 64 bits"),
        (b"\x3a\x05\x00", "a length of 5"),
    ],
)
def test_malformed_messages(data, why):
    with pytest.raises(BundleDamaged, match=why):
        external_locations(data)


def _length(data):
    size, out = len(data), b""
    while size > 0x7F:
        out += bytes([size & 0x7F | 0x80])
        size >>= 7
    return out + bytes([size])
