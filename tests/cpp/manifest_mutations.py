"""Manifests that are nearly right, from a seed: each differs from a valid one in a few places."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.cpp.json_tokens import BAD_BYTES, CLOSING, OPENING, SPACES, VALUES

Json = Any
Path = tuple[str | int, ...]

_BORDERS = (
    0,
    1,
    2,
    8,
    64,
    100,
    1000,
    1024,
    4096,
    65_536,
    100_000,
    10**6,
    2**31,
    2**40,
    2**50,
    2**53,
)
"""Numbers at which the format's ranges end."""

_NUMBERS: tuple[Json, ...] = (
    *(sign * (border + step) for border in _BORDERS for step in (-1, 0, 1) for sign in (1, -1)),
    *(10**17, 10**18, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**40),
    *(0.0, -0.0, 0.5, 1.0, 1e-6, math.nextafter(1e-6, 0), 1e6, math.nextafter(1e6, 2e6), 1000.5),
    *(5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e22, 1e16, 123456789012345.67, 1e-7),
    *(math.nan, math.inf, -math.inf),
)  # fmt: skip

_NAMES = (
    "", ".", "..", "a/../b", "/a", "a//b", "a/", "a\\b", "c:d", "a.", "a ", "é" * 128, "a" * 256,
    "a/" * 256, "a/" * 255 + "bc", "x\x00y", "a\nb", "\x7f", "\u202e", "\u00a0", "naïve/日本.onnx",
    "manifest.json", "unet", "unet/native.onnx/x", "unet/weights.bin", "it's", 'a"b', "'\"",
    "\U0001f600",
    "x" * 512, "x" * 1024, "x" * 1025, "é" * 1024, "é" * 1025, "\ud800", "a\udfffb", "\ue000",
    "\ue000\ud834",
    "\ufeff", "\U000e0001", "\U0010ffff", "vae_encoder/model.onnx", "unet/target-128x128.onnx",
    "fm", "\xad",
)  # fmt: skip

_WORDS = (
    "B", "2B", "0B", "02B", "9999h", "10000h", "8w", "8W", "h ", "b", "sd", "sdxl", "fp32", "fp16",
    "bf16", "fp64", "qk", "maps", "float32", "float16", "bfloat16", "int64", "bool", "linear",
    "trailing",
    "stage", "native", "lcm", "euler-a", "latent", "pixel", "nearest", "latent", "prediction",
    "pooled_prompt_embeds", "guidance_scale", "control_residual.0", "0" * 64, "A" * 64, "0" * 65,
    "0" * 64 + "\n",
)  # fmt: skip

_OTHERS: tuple[Json, ...] = (
    None, True, False, [], {}, [1], [8, 8], [1] * 9, {"a": [1, 2.0, None, True, "it's"]}, [[[[]]]],
    {"x" * 300: "y" * 300}, ["é" * 150, 1e-5], [None] * 100, {"": {"'": '"'}},
)  # fmt: skip


def paths_in(document: Json, path: Path = ()) -> Iterator[Path]:
    """Where every value of `document` stands."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths_in(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from paths_in(value, (*path, index))


def value_at(document: Json, path: Path) -> Json:
    """The value that stands at `path`."""
    for key in path:
        document = document[key]
    return document


def copied(document: Json) -> Json:
    """A copy that shares nothing."""
    return json.loads(json.dumps(document))


def edited(document: Json, path: Path, value: Json) -> Json:
    """A copy of `document` with another value at `path`."""
    document = copied(document)
    if not path:
        return value
    value_at(document, path[:-1])[path[-1]] = value
    return document


def hostile_value(rng: random.Random) -> Json:
    """Something that is likely to be wrong anywhere."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(_NUMBERS)
    if kind < 5:
        return rng.choice(_NAMES)
    return rng.choice(_WORDS if kind < 7 else _OTHERS)


class Mutator:
    """Changes of one document, drawn from a seed.

    Args:
        documents: valid manifests.
        seed: the same gives the same mutations.
    """

    def __init__(self, documents: list[Json], seed: int) -> None:
        self._documents = documents
        self._rng = random.Random(seed)

    def structural(self, *, changes: int) -> bytes:
        """A manifest with `changes` values changed."""
        document = copied(self._rng.choice(self._documents))
        for _ in range(changes):
            operation = self._rng.choice(self._OPERATIONS)
            document = operation(self, document)
            if not isinstance(document, dict) or not document:
                break
        return self._written(document)

    def textual(self) -> bytes:
        """The bytes of a manifest with one or two places spoiled."""
        document = self._rng.choice(self._documents)
        data = bytearray(self._written(self._smaller(document)))
        for _ in range(self._rng.randint(1, 2)):
            operation = self._rng.choice(self._TEXTUAL)
            operation(self, data)
        return bytes(data)

    def _written(self, document: Json) -> bytes:
        rng = self._rng
        text = json.dumps(
            document,
            indent=rng.choice((None, None, 0, 2)),
            ensure_ascii=rng.random() < 0.7,
            sort_keys=rng.random() < 0.3,
        )
        return text.encode("utf-8", "surrogatepass")

    def _smaller(self, document: Json) -> Json:
        """A part of `document`, so that what is spoiled in its text is not always a hash."""
        if self._rng.random() < 0.3:
            return document
        keys = self._rng.sample(sorted(document), 3)
        return {key: document[key] for key in ("format_version", *keys)}

    def _place(self, document: Json) -> Path:
        """Where a value stands; each part of the document is as likely as the others."""
        part = self._rng.choice(sorted(document))
        return self._rng.choice(list(paths_in(document[part], (part,))))

    def _replace(self, document: Json) -> Json:
        return edited(document, self._place(document), hostile_value(self._rng))

    def _delete(self, document: Json) -> Json:
        path = self._place(document)
        document = copied(document)
        del value_at(document, path[:-1])[path[-1]]
        return document

    def _nudge_number(self, document: Json) -> Json:
        """Another number where there is one: near it, or at a border."""
        numbers = [
            path
            for path in paths_in(document)
            if isinstance(value_at(document, path), (int, float))
            and not isinstance(value_at(document, path), bool)
        ]
        if not numbers:
            return document
        path = self._rng.choice(numbers)
        old = value_at(document, path)
        near = (old + 1, old - 1, -old, old * 2, float(old), str(old), old + 0.5)
        return edited(document, path, self._rng.choice((*near, *self._rng.choices(_NUMBERS, k=7))))

    def _change_type(self, document: Json) -> Json:
        path = self._place(document)
        value = value_at(document, path)
        return edited(
            document, path, self._rng.choice((str(value), [value], {"x": value}, None, bool(value)))
        )

    def _rename(self, document: Json) -> Json:
        """Another key, in the same place of the object."""
        path = self._place(document)
        parent = value_at(document, path[:-1])
        if not isinstance(parent, dict):
            return self._reorder(document)
        new = self._rng.choice((*_NAMES, *_WORDS, str(path[-1]) + "x"))
        renamed = {new if key == path[-1] else key: value for key, value in parent.items()}
        return edited(document, path[:-1], renamed)

    def _rename_everywhere(self, document: Json) -> Json:
        """Another name of a file, wherever it stands."""
        names = [name for name in document.get("files", {}) if name]
        if not names:
            return document
        old, new = json.dumps(self._rng.choice(names)), json.dumps(self._rng.choice(_NAMES))
        renamed: Json = json.loads(json.dumps(document).replace(old, new))
        return renamed

    def _add_tensor(self, document: Json) -> Json:
        """An input or output that a graph does not have."""
        graphs = document.get("graphs")
        if not isinstance(graphs, dict) or not graphs:
            return document
        path = ("graphs", self._rng.choice(sorted(graphs)), self._rng.choice(("inputs", "outputs")))
        name = self._rng.choice(
            ("control_residual.0", "ζ", "A", "it's", "latent", "image", "é\ud800")
        )
        tensor = {"name": name, "dtype": "float32", "shape": ["B", 4, 8, 8]}
        try:
            return edited(document, path, [tensor, *value_at(document, path)])
        except (KeyError, TypeError):  # an earlier change took the place away
            return document

    def _reorder(self, document: Json) -> Json:
        """A list with an element twice, in another order, or with one less."""
        lists = [path for path in paths_in(document) if isinstance(value_at(document, path), list)]
        if not lists:
            return document
        path = self._rng.choice(lists)
        items = list(value_at(document, path))
        changed = (items[::-1], items * 2, items[1:], items[:-1], [*items, None], items + items[:1])
        return edited(document, path, self._rng.choice(changed))

    def _copy(self, document: Json) -> Json:
        """A value of another place, often one under the same key."""
        path = self._place(document)
        twins = [other for other in paths_in(document) if other[-1:] == path[-1:]]
        other = self._rng.choice(twins) if self._rng.random() < 0.8 else self._place(document)
        return edited(document, path, copied(value_at(document, other)))

    def _contradict(self, document: Json) -> Json:
        """A valid value that the other parts do not expect."""
        path, values = self._rng.choice(_VALID_VALUES)
        try:
            return edited(document, path, self._rng.choice(values))
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            return document

    def _flip(self, data: bytearray) -> None:
        data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _truncate(self, data: bytearray) -> None:
        del data[self._rng.randrange(1, len(data)) :]

    def _insert(self, data: bytearray) -> None:
        position = self._rng.randrange(len(data) + 1)
        words = self._rng.choice((OPENING, VALUES, CLOSING, SPACES, BAD_BYTES))
        data[position:position] = self._rng.choice(words)

    def _cut_out(self, data: bytearray) -> None:
        position = self._rng.randrange(len(data))
        del data[position : position + self._rng.choice((1, 1, 1, 2, 5, 40))]

    def _replace_value(self, data: bytearray) -> None:
        """Something else behind a colon or a comma."""
        marks = [i for i, byte in enumerate(data) if byte in b":,["]
        if not marks:
            return
        position = self._rng.choice(marks) + 1
        end = position
        while end < len(data) and data[end] not in b",]}":
            end += 1
        data[position:end] = self._rng.choice(VALUES)

    def _repeat_member(self, data: bytearray) -> None:
        """A member of an object twice, where the text happens to end well."""
        marks = [i for i, byte in enumerate(data) if byte in b","]
        if len(marks) < 2:
            return
        index = self._rng.randrange(len(marks) - 1)
        begin, end = marks[index], marks[index + 1]
        data[end:end] = data[begin:end]

    _OPERATIONS: tuple[Callable[[Mutator, Json], Json], ...] = (
        _replace, _replace, _delete, _nudge_number, _nudge_number, _change_type, _rename, _reorder,
        _copy, _contradict, _contradict, _contradict, _contradict, _rename_everywhere, _add_tensor,
    )  # fmt: skip
    _TEXTUAL: tuple[Callable[[Mutator, bytearray], None], ...] = (
        _flip, _truncate, _insert, _insert, _cut_out, _replace_value, _replace_value,
    _repeat_member,
    )  # fmt: skip


_NATIVE, _STEP = "unet/native.onnx", "unet/target-128x128.onnx"

_VALID_VALUES: tuple[tuple[Path, tuple[Json, ...]], ...] = (
    (("format_version",), (1, 2, 3, 2**31, 2**31 + 1)),
    (("model", "family"), ("sd", "sdxl")),
    (("model", "dtype"), ("fp16", "bf16")),
    (("model", "guidance"), (True, False)),
    (("model", "guidance_embedding"), (True, False)),
    (("model", "latent_channels"), (3, 5, 64)),
    (("model", "vae_scale_factor"), (1, 4, 7, 16, 64)),
    (("model", "size_multiple"), (1, 8, 12, 32, 128, 4096)),
    (("native", "height"), (1, 8, 32, 64, 72, 128, 192, 256)),
    (("native", "width"), (1, 8, 64, 72, 128, 192, 256, 320)),
    (("targets",), ([],)),
    (("targets", 0, "height"), (64, 120, 128, 192, 256)),
    (("targets", 1, "width"), (64, 128, 192, 256, 300)),
    (("targets", 0, "step"), (_NATIVE, "vae_encoder/model.onnx", "none.onnx")),
    (("targets", 0, "upsample"), (_NATIVE, _STEP, "vae_decoder/model.onnx", "none.onnx")),
    (("targets", 0, "kernels"), (_NATIVE, "none")),
    (("taps", "form"), ("qk", "maps")),
    (("taps", "layers"), ([],)),
    (("taps", "layers", 0, "name"), ("other", "é", "it's")),
    (("taps", "layers", 0, "heads"), (1, 2, 3, 4, 1024)),
    (("taps", "layers", 0, "channels"), (4, 5, 8, 1_000_000)),
    (("taps", "layers", 0, "tokens"), ([8, 8], [4, 8], [9, 8], [8, 9], [1, 1])),
    (("size_conditions",), (None, "stage", "native")),
    (("noise_schedule", "num_train_timesteps"), (1, 3, 4, 5, 100_000)),
    (("noise_schedule", "trained_betas"), (None, [0.1] * 100, [0, 1] * 50, [0.1] * 99,
    [-0.1] * 100)),
    (("noise_schedule", "timestep_spacing"), (None, "leading", "linspace", "trailing")),
    (("noise_schedule", "lambda_min_clipped"), (None, -5.1, 1000, -1001)),
    (("text_encoders",), ([],)),
    (("text_encoders", 0, "graph"), (_NATIVE, "vae_encoder/model.onnx", "none.onnx")),
    (("text_encoders", 0, "tokenizer"), (_NATIVE, "none")),
    (("vae", "encoder"), ("vae_decoder/model.onnx", _NATIVE, "none.onnx", "fm")),
    (("vae", "decoder"), ("vae_encoder/model.onnx", _NATIVE, "none.onnx")),
    (("defaults", "num_inference_steps"), (1, 100, 101, 1_000_000)),
    (("defaults", "scheduler"), ("lcm", "euler-a", "dpm++2m")),
    (("graphs", "x.onnx"), ({"inputs": [], "outputs": [], "check": {}, "activation_bytes": 0},)),
    (("graphs", _NATIVE, "inputs", 0, "shape"), (["B", 4, 8, 9], ["B"], [], [1], ["h", 4, 8, 8])),
    (("graphs", _NATIVE, "inputs", 0, "dtype"), ("float16", "bool")),
    (("graphs", _NATIVE, "outputs", 2, "shape"), (["B", 64, 4], ["2B", 64, 8], ["2B"])),
    (("graphs", _NATIVE, "outputs", 2, "dtype"), ("float16", "bfloat16", "int64")),
    (("graphs", _STEP, "inputs", -1, "shape"), (["2B", 64, 5], ["2B", 65, 4])),
    (("graphs", _STEP, "inputs", -1, "name"), ("unknown", "control_residual.0", "ζ", "A")),
    (("graphs", _STEP, "outputs"), ([],)),
    (("files", "unet/native.onnx", "bytes"), (0, 2**50, 2**50 + 1)),
)  # fmt: skip
"""Values that are right in themselves."""
