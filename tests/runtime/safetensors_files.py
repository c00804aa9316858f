"""Files of kernel tables that are not as they should be."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save

TIMESTEPS, LATENT = 5, (8, 16)


def kernels() -> dict[str, Any]:
    """Tables of the right shapes."""
    rng = np.random.default_rng(0)
    shapes = {"rows": (TIMESTEPS, 8), "columns": (TIMESTEPS, 16), "weight": (TIMESTEPS,)}
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def _whole(header: bytes | str | dict[str, Any], body: bytes | None = None) -> bytes:
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    begin = 8 + int.from_bytes(save(kernels())[:8], "little")
    return (
        len(header).to_bytes(8, "little")
        + header
        + (save(kernels())[begin:] if body is None else body)
    )


def _header() -> dict[str, Any]:
    data = save(kernels())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert isinstance(header, dict)
    return header


def _changed(key: str, **members: object) -> bytes:
    header = _header()
    header[key] = {k: v for k, v in (header[key] | members).items() if v is not None}
    return _whole(header)


MALFORMED = {
    "nothing": b"",
    "no header": b"{}",
    "noise": b"\xff" * 100,
    "a header too long": b"\x03\0\0\0\0\0\0\0{}",
    "a header far too long": (1 << 63).to_bytes(8, "little") + b"{}",
    "an empty header": bytes(8),
    "no tables": b"\x02\0\0\0\0\0\0\0{}",
    "no tables and bytes": b"\x02\0\0\0\0\0\0\0{}abcd",
    "a list": _whole("[]"),
    "not UTF-8": _whole(b'{"\xff": 1}'),
    "a byte order mark": _whole("\ufeff" + json.dumps(_header())),
    "a zero byte behind": _whole(json.dumps(_header()) + "\0"),
    "text behind": _whole(json.dumps(_header()) + "x"),
    "a key twice": _whole(json.dumps(_header())[:-1] + ', "rows": {}}'),
    "a member twice": _whole(json.dumps(_header()).replace("{", '{"a": {"b": 1, "b": 2}, ', 1)),
    "NaN": _whole('{"a": NaN}'),
    "a large number": _whole('{"a": 18446744073709551616}'),
    "a large float": _whole('{"a": 1e999}'),
    "a lone surrogate": _whole('{"\\ud800": 1}'),
    "deep": _whole('{"a":' + "[" * 17 + "]" * 17 + "}"),
    "very deep": _whole('{"a":' + "[" * 5000 + "]" * 5000 + "}"),
    "a number": _whole(_header() | {"x": 1}),
    "null": _whole(_header() | {"x": None}),
    "metadata no object": _whole(_header() | {"__metadata__": None}),
    "metadata no text": _whole(_header() | {"__metadata__": {"a": 1}}),
    "no dtype": _changed("rows", dtype=None),
    "no shape": _changed("rows", shape=None),
    "no offsets": _changed("rows", data_offsets=None),
    "a further member": _changed("rows", more=1),
    "a dtype no text": _changed("rows", dtype=32),
    "another dtype": _changed("rows", dtype="f32"),
    "an unknown dtype": _changed("rows", dtype="it's"),
    "a shape no list": _changed("rows", shape=40),
    "a shape of floats": _changed("rows", shape=[5.0, 8]),
    "a shape of flags": _changed("rows", shape=[True, 40]),
    "a negative shape": _changed("rows", shape=[-5, -8]),
    "another shape": _changed("rows", shape=[8, 5]),
    "a shape of another size": _changed("rows", shape=[5, 9]),
    "a shape of half the size": _changed("rows", shape=[5, 4]),
    "a shape of one element": _changed("rows", shape=[]),
    "a shape that overflows": _changed("rows", shape=[2**32, 2**32, 40]),
    "a shape that overflows to 0": _changed("rows", shape=[2**52, 2**52, 0]),
    "nine dimensions": _changed("rows", shape=[5, 8, 1, 1, 1, 1, 1, 1, 1]),
    "eight dimensions": _changed("rows", shape=[5, 8, 1, 1, 1, 1, 1, 1]),
    "a million dimensions": _changed("rows", shape=[1] * 1_000_000),
    "offsets of one": _changed("rows", data_offsets=[0]),
    "offsets of three": _changed("rows", data_offsets=[0, 160, 160]),
    "offsets turned round": _changed("rows", data_offsets=[160, 0]),
    "a negative offset": _changed("rows", data_offsets=[-1, 159]),
    "offsets beyond the end": _changed("rows", data_offsets=[2**53 - 161, 2**53 - 1]),
    "an overlap": _changed("columns", data_offsets=[4, 324]),
    "bytes behind": _whole(_header(), bytes(501)),
    "bytes missing": _whole(_header(), bytes(499)),
}
