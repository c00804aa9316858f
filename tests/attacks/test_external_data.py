"""Graphs that point their tensors at files which are not the bundle's."""

from __future__ import annotations

import onnx
import pytest

from fam_runtime.bundle import Bundle
from fam_runtime.bundle.onnx_external_data import external_locations
from fam_runtime.errors import BundleDamaged, BundlePathRefused
from tests.attacks import hostile

GRAPH = "vae_decoder/model.onnx"


@pytest.mark.parametrize("place", hostile.PLACES)
def test_data_outside_in_every_place_of_a_model(bundle, place):
    model = onnx.load(bundle / GRAPH)
    hostile.PLACES[place](model, hostile.external_tensor("../../../etc/passwd"))
    hostile.replace_graph(bundle, GRAPH, model)
    with pytest.raises(BundlePathRefused, match=rf"{GRAPH} .*in another file .*etc/passwd"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "location",
    hostile.OTHER_LOCATIONS,
)
def test_locations_that_are_not_the_weights(bundle, location):
    (bundle / "unet/model.bin").write_bytes(bytes(8))  # there, but not listed
    model = onnx.load(bundle / "unet/native.onnx", load_external_data=False)
    model.graph.initializer.append(hostile.external_tensor(location))
    hostile.replace_graph(bundle, "unet/native.onnx", model)
    with pytest.raises(BundlePathRefused, match="expected weights.bin"):
        Bundle.open(bundle, verify="size")


@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 40), (1 << 40, 4), (6, 4)])
def test_data_beyond_the_weights(bundle, offset, length):
    model = onnx.load(bundle / "unet/native.onnx", load_external_data=False)
    tensor = hostile.external_tensor("weights.bin", offset=offset, length=length)
    model.graph.initializer.append(tensor)
    hostile.replace_graph(bundle, "unet/native.onnx", model)
    with pytest.raises(BundlePathRefused, match="beyond the end of unet/weights.bin"):
        Bundle.open(bundle)


@pytest.mark.parametrize("shift", [32, 34])
def test_keys_that_some_parsers_cut_to_32_bits(bundle, shift):
    """C++ protobuf drops the upper bits of a five-byte key; a reader that keeps them sees less."""
    stolen = hostile.external_tensor("/etc/passwd").SerializeToString()
    key = (5 << 3 | 2) | 1 << shift  # GraphProto.initializer, and a bit that is dropped
    graph = _varint(key) + _varint(len(stolen)) + stolen
    data = b"\x3a" + _varint(len(graph)) + graph
    with pytest.raises(BundleDamaged, match="field number"):
        external_locations(data)


def test_a_compiled_engine(bundle):
    model = onnx.load(bundle / GRAPH)
    node = onnx.helper.make_node("EPContext", [], ["x"], ep_cache_context="evil.engine")
    node.domain = "com.microsoft"
    model.graph.node.append(node)
    hostile.replace_graph(bundle, GRAPH, model)
    with pytest.raises(BundlePathRefused, match=f"{GRAPH} .*holds a compiled engine"):
        Bundle.open(bundle)


@pytest.mark.parametrize("data", [b"not a model", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 20])
def test_no_protobuf(bundle, data):
    (bundle / GRAPH).write_bytes(data)
    hostile.record_again(bundle, GRAPH)
    with pytest.raises(BundleDamaged, match=f"{GRAPH} is not a well-formed ONNX file"):
        Bundle.open(bundle)


def _varint(value):
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])
