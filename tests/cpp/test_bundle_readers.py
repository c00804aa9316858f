"""The readers of a bundle's files: graphs, kernel tables and paths, from any bytes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fam_runtime.bundle.kernels import kernel_tables_from_bytes
from fam_runtime.bundle.onnx_external_data import outline_of_onnx
from tests.attacks import hostile
from tests.cpp.damaged_bundles import spoilt
from tests.cpp.probe import Probe
from tests.cpp.test_bundle import outcome
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.safetensors_files import LATENT, MALFORMED, TIMESTEPS, kernels

NAME = "fm/kernels-8x16.safetensors"


def outline(data: bytes) -> dict[str, Any]:
    found = outline_of_onnx(data, name="unet/x.onnx")
    external = [[t.tensor, t.location, t.offset, t.length] for t in found.external]
    return {"external": external, "op_types": sorted(found.op_types)}


def assert_same_outline(probe: Probe, data: bytes) -> object:
    """Both see the same in the graph `data`; returns Python's outcome."""
    expected = outcome(lambda: outline(data))
    ask = lambda: probe.ask("bundle.outline", hex=data.hex(), name="unet/x.onnx")  # noqa: E731
    assert outcome(ask) == expected
    return expected


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model with external data in every place of it."""
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "sd")
    model = onnx.load(root / "vae_decoder/model.onnx")
    tensor: Any = hostile.external_tensor
    places: Any = hostile.PLACES
    for index, put in enumerate(places.values()):
        put(model, tensor(f"file{index}", offset=64 * index, length=4))
    data = model.SerializeToString()
    assert isinstance(data, bytes)
    return data


def test_an_outline(probe: Probe, model_bytes: bytes) -> None:
    found = assert_same_outline(probe, model_bytes)
    assert isinstance(found, dict)
    assert {tensor[1] for tensor in found["external"]} == {
        f"file{i}" for i in range(len(hostile.PLACES))
    }


@pytest.mark.parametrize("seed", range(8))
def test_outlines_of_spoilt_models(probe: Probe, model_bytes: bytes, seed: int) -> None:
    rng = random.Random(seed)
    refused = 0
    for _ in range(100):
        refused += isinstance(assert_same_outline(probe, spoilt(model_bytes, rng)), tuple)
    assert 10 < refused < 100


# Pieces of the wire from which every rule of the walker can be broken.
PIECES = st.sampled_from(
    [
        *(bytes([byte]) for byte in (0, 1, 2, 3, 8, 0x0A, 0x2A, 0x32, 0x3A, 0x42, 0x6A, 0x70)),
        b"\x3a\x00",
        b"\x6a\x0f\x0a\x08location\x12\x01a",
        b"\x6a\x0b\x0a\x06offset\x12\x011",
        b"\x6a\x0b\x0a\x06length\x12\x01-",
        b"\x6a\x04\x0a\x02\xff\xfe",
        b"\xff" * 9 + b"\x01",
        b"\xff" * 9 + b"\x02",
        b"\xff" * 11,
        b"\x22\x09EPContext",
    ]
)


@given(st.lists(st.one_of(PIECES, st.binary(max_size=6)), max_size=8), st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_outlines_of_any_messages(probe: Probe, pieces: list[bytes], depth: int) -> None:
    data = b"".join(pieces)
    for key in (b"\x2a", b"\x0a", b"\x0a", b"\x3a")[4 - depth :]:
        data = key + _varint(len(data)) + data
    assert_same_outline(probe, data)


def test_nesting(probe: Probe) -> None:
    for levels in (31, 32, 33, 100):
        data = b""
        for _ in range(levels):  # a node in a graph in an attribute of a node ...
            for key in (b"\x32", b"\x2a", b"\x0a"):
                data = key + _varint(len(data)) + data
        found = assert_same_outline(probe, b"\x3a" + _varint(len(data)) + data)
        assert isinstance(found, tuple) == (levels > 32)


@pytest.mark.parametrize(
    "entries",
    [
        [("offset", "0")],
        [("location", "a"), ("location", "b")],
        [("location", "a"), ("offset", "-1")],
        [("location", "a"), ("offset", "")],
        [("location", "a"), ("offset", "٣")],
        [("location", "a"), ("length", "1e3")],
        [("location", "a"), ("length", "9" * 19)],
        [("location", "a"), ("length", "9" * 20)],
        [("location", "a"), ("length", "0" * 19)],
        [("location", "a" * 4096)],
        [("location", "a" * 4097)],
        [("location", "it's \0 \u202e")],
        [("Location", "a")],
        [("it's", "a"), ("location", "b")],
        [],
    ],
)
def test_entries(probe: Probe, entries: list[tuple[str, str]]) -> None:
    model = onnx.ModelProto()
    tensor = model.graph.initializer.add(name="té'x")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    assert_same_outline(probe, model.SerializeToString())


def _varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def assert_same_tables(probe: Probe, data: bytes) -> object:
    """Both take the same kernels from `data`, or refuse them; returns Python's outcome."""

    def tables() -> object:
        found = kernel_tables_from_bytes(data, name=NAME, timesteps=TIMESTEPS, latent_size=LATENT)
        digest = hashlib.sha256(b"".join(table.tobytes() for table in found))
        return {"sizes": [table.size for table in found], "sha256": digest.hexdigest()}

    expected = outcome(tables)
    size = {"timesteps": TIMESTEPS, "height": LATENT[0], "width": LATENT[1]}
    ask = lambda: probe.ask("bundle.tables", hex=data.hex(), name=NAME, **size)  # noqa: E731
    assert outcome(ask) == expected
    return expected


Spoil = Callable[[dict[str, Any]], object]


def test_tables(probe: Probe) -> None:
    for data in (save(kernels()), save(kernels(), metadata={"made by": "tests"})):
        assert isinstance(assert_same_tables(probe, data), dict)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.pop("weight"),
        lambda t: t.pop("rows"),
        lambda t: t.clear(),
        lambda t: t.update(rows=t["rows"][:, :-1].copy()),
        lambda t: t.update(rows=t["rows"][None]),
        lambda t: t.update(weight=t["weight"][:1]),
        lambda t: t.update(rows=t["rows"].astype(np.float64)),
        lambda t: t.update(columns=t["columns"].astype(np.float16)),
        lambda t: t.update(columns=t["columns"].astype(np.int32)),
        lambda t: t["columns"].__setitem__((0, 0), np.nan),
        lambda t: t["weight"].__setitem__(0, np.inf),
        lambda t: t["rows"].__setitem__((4, 7), -np.inf),
        lambda t: t.update(rows=np.zeros((0, 8), np.float32)),
        lambda t: [t.pop("rows"), t.update({f"it's {i}": t["weight"] for i in range(40)})],
    ],
)
def test_tables_that_are_not_right(probe: Probe, spoil: Spoil) -> None:
    tables = kernels()
    spoil(tables)
    assert isinstance(assert_same_tables(probe, save(tables)), tuple)


def test_a_further_table_is_no_matter(probe: Probe) -> None:
    further = {"empty": np.zeros((0, 3), np.float32), "other": np.arange(3, dtype=np.int8)}
    assert isinstance(assert_same_tables(probe, save(kernels() | further)), dict)


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_safetensors(probe: Probe, kind: str) -> None:
    assert isinstance(assert_same_tables(probe, MALFORMED[kind]), tuple)


def test_spoilt_safetensors(probe: Probe) -> None:
    rng = random.Random(3)
    data = save(kernels(), metadata={"a": "b"})
    refused = sum(
        isinstance(assert_same_tables(probe, spoilt(data, rng)), tuple) for _ in range(400)
    )
    assert refused > 200


@pytest.mark.parametrize("path", ["", "/", "//", "///", ".", "..", "/..", "a.", ".a", "a.b.c/"])
def test_paths_are_those_of_pathlib(probe: Probe, path: str) -> None:
    rng = random.Random(len(path))
    pieces = ["/", "//", ".", "..", "a", ".b", "c.d", "é ", "x."]
    for text in [path, *(path + "".join(rng.choices(pieces, k=5)) for _ in range(50))]:
        expected = PurePosixPath(text)
        assert probe.ask("bundle.path_text", path=text) == [
            str(expected),
            expected.name,
            str(expected.parent),
            expected.stem,
            expected.suffix,
        ]
