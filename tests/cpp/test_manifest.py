"""manifest.json read by both runtimes: the same parts, or the same error in the same words."""

from __future__ import annotations

import collections
import dataclasses
import json
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fam_runtime.bundle import Manifest, export_command
from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_OF_MODEL
from fam_runtime.bundle.paths import check_name
from fam_runtime.contract import tap_names
from fam_runtime.errors import FamError
from fam_runtime.native_attention import all_tap_names, tap_specs
from tests.attacks.test_names_and_files import HOSTILE_NAMES
from tests.cpp.json_tokens import some_document, some_tokens
from tests.cpp.manifest_mutations import Mutator, copied, edited, hostile_value, paths_in, value_at
from tests.cpp.probe import CppError, Probe
from tests.runtime.fake_bundle import write_bundle
from tests.runtime.test_manifest import CONTRADICTIONS, DELETED, NOT_STRICT_JSON, WRONG_VALUES

Answer = tuple[str, Any]
JsonPath = tuple[str | int, ...]

_NEW = ("Cn", "Cs")
NATIVE, STEP = "unet/native.onnx", "unet/target-128x128.onnx"


def fields(manifest: Manifest) -> Any:
    """Every field but the free-form `check`; tables as pairs, since their order counts."""
    plain = json.loads(json.dumps(dataclasses.asdict(manifest)))
    for graph in plain["graphs"].values():
        del graph["check"]
    return {**plain, **{key: [list(i) for i in plain[key].items()] for key in ("graphs", "files")}}


def answer_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Answer:
    """What the function returns, or the class and the text of its error."""
    try:
        return "", function(*args, **kwargs)
    except FamError as error:
        return type(error).__name__, str(error)
    except CppError as error:
        return error.kind, error.text


def python_answer(data: bytes) -> Answer:
    return answer_of(lambda: fields(Manifest.from_bytes(data)))


def same_answer(probe: Probe, data: bytes) -> Answer:
    """What both readers say of `data`."""
    python = python_answer(data)
    cpp = answer_of(probe.ask, "manifest.read", data=data.decode("latin-1"))
    # As text, so that 1 and 1.0 differ.
    assert json.dumps(cpp, sort_keys=True) == json.dumps(python, sort_keys=True), data[:2000]
    return python


def _renamed(document: Any, names: dict[str, str]) -> Any:
    text = json.dumps(document)
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return json.loads(text)


def _with_maps(document: Any) -> Any:
    """The manifest of a bundle whose taps are attention maps."""
    layer = document["taps"]["layers"][0]
    document = edited(document, ("taps", "form"), "maps")
    query, key = tap_names(layer["name"], "qk")
    n = layer["tokens"][0] * layer["tokens"][1]
    spec = {
        "name": tap_names(layer["name"], "maps")[0],
        "dtype": "float32",
        "shape": ["2B", layer["heads"], n, n],
    }
    for name, graph in document["graphs"].items():
        for side in ("inputs", "outputs"):
            kept = [s for s in graph[side] if s["name"] not in (query, key)]
            taps = [spec] if len(kept) < len(graph[side]) else []
            document = edited(document, ("graphs", name, side), kept + taps)
    return document


def _with_everything(document: Any) -> Any:
    """What a plain bundle does not have: adapters, betas, unknown keys, names beyond ASCII."""
    sha256 = "c" * 64
    for path, value in (
        (("model", "name"), "naïve 模型"),
        (("model", "loras"), [{"name": "it's ink", "sha256": sha256, "strength": -0.8}] * 2),
        (("model", "later"), {"x": [1, 2.5, None]}),
        (("noise_schedule", "trained_betas"), [i / 1000 for i in range(100)]),
        (("noise_schedule", "timestep_spacing"), "trailing"),
        (("noise_schedule", "lambda_min_clipped"), -5.1),
        (("defaults", "guidance_scale"), 7),
        (("files", "unet/weights.bin"), {"bytes": 2**50, "sha256": sha256}),
        (("files", "unet/weights.json"), {"bytes": 0, "sha256": sha256}),
        (("files", "naïve/日本.txt"), {"bytes": 0, "sha256": sha256}),
        (("graphs", NATIVE, "check"), {"maximum": 1e-7, "per output": [{"x": True}]}),
        (("upsample",), {"space": "pixel", "mode": "nearest"}),
        (("frequency_modulation", "cutoff_reference"), "native"),
        (("vae", "later"), 0.1),
    ):
        document = edited(document, path, value)
    return _renamed(document, {"vae_decoder/model.onnx": "vae_decoder/it's.onnx"})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Valid manifests of every kind, parsed; the first one is plain."""
    folder = tmp_path_factory.mktemp("bundles")
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"family": "sdxl"},
        {"guidance": False},
        {"guidance": False, "guidance_embedding": True},
        {"dtype": "fp16"},
    )
    found = []
    for index, kind in enumerate(kinds):
        root = write_bundle(folder / str(index), **kind)
        found.append(json.loads((root / "manifest.json").read_bytes()))
    return [*found, _with_maps(found[0]), _with_everything(found[0])]


@pytest.fixture(scope="module")
def data(documents: list[Any]) -> bytes:
    return json.dumps(documents[0]).encode()


def test_valid_manifests(probe: Probe, documents: list[Any]) -> None:
    for document in documents:
        for text in (
            json.dumps(document),
            json.dumps(document, indent=2, ensure_ascii=False),
            json.dumps(dict(reversed(document.items())), indent=0).replace("\n", "\r\n\t"),
        ):
            kind, parts = same_answer(probe, text.encode())
            assert not kind
            assert len(parts["graphs"]) >= 7


@pytest.mark.parametrize(("path", "value", "message"), WRONG_VALUES)
def test_wrong_values(
    probe: Probe, documents: list[Any], path: tuple[Any, ...], value: Any, message: str
) -> None:
    kind, text = same_answer(probe, json.dumps(edited(documents[0], path, value)).encode())
    assert kind == "BundleDamaged"
    assert re.search(message, text)


@pytest.mark.parametrize(("edit", "message"), CONTRADICTIONS)
def test_contradictions(probe: Probe, documents: list[Any], edit: Any, message: str) -> None:
    path, value = edit
    document = edited(documents[0], path, None) if path[-1] == "x.txt" else documents[0]
    document = copied(document)
    place = value_at(document, path[:-1])
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value(place[path[-1]]) if callable(value) else value
    kind, text = same_answer(probe, json.dumps(document).encode())
    assert kind == "BundleDamaged"
    assert re.search(message, text)


def test_contradictions_of_other_families(probe: Probe, documents: list[Any]) -> None:
    """What a plain manifest cannot show: no pooled embedding, another form or type of the taps."""
    sdxl, maps, fp16 = documents[1], documents[5], documents[4]
    pooled = ("graphs", "text_encoder_2/model.onnx", "outputs")
    first_output = ("graphs", NATIVE, "outputs", 2)
    for document, message in (
        (edited(sdxl, pooled, value_at(sdxl, pooled)[:1]), "'no pooled_prompt_embeds'.*sdxl"),
        (edited(sdxl, ("size_conditions",), None), "'stage' or 'native' for sdxl"),
        (edited(sdxl, ("model", "guidance"), False), r"no guidance_scale|float32 \('B'|not know"),
        (edited(maps, (*first_output, "shape"), ["2B", 2, 64]), r"float32 \('2B', 2, 64, 64\)"),
        (edited(fp16, (*first_output, "dtype"), "bfloat16"), r"say, float16 \('2B', 64, 4\)"),
        (edited(fp16, ("graphs", STEP, "inputs", -1, "dtype"), "float32"), "native graph gives"),
    ):
        kind, text = same_answer(probe, json.dumps(document).encode())
        assert kind.startswith("Bundle")
        assert re.search(message, text)


def kinds_of_places(document: Any) -> list[JsonPath]:
    """One place of each kind: elements of a list are of one kind, and so are graphs and files."""
    found: dict[JsonPath, JsonPath] = {}
    for path in paths_in(document):
        kind = tuple("" if isinstance(key, int) or "/" in key else key for key in path)
        if "check" not in kind[:-1]:
            found.setdefault(kind, path)
    return list(found.values())


def test_every_key_is_needed(probe: Probe, documents: list[Any]) -> None:
    for document in (documents[1], documents[-1]):
        refused = 0
        for path in kinds_of_places(document):
            if not path or isinstance(path[-1], int):
                continue
            without = copied(document)
            del value_at(without, path[:-1])[path[-1]]
            answer = same_answer(probe, json.dumps(without).encode())
            refused += answer[0] == "BundleDamaged" and answer[1].count("expected this key")
        assert refused > 65


@pytest.mark.parametrize(("raw", "message"), NOT_STRICT_JSON)
def test_strict_json(probe: Probe, tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(raw)
    with pytest.raises(CppError) as caught:
        probe.ask("manifest.read", path=str(path))
    assert (caught.value.kind, caught.value.text) == python_answer(raw)
    assert re.search(message, caught.value.text)


def test_nesting(probe: Probe) -> None:
    """The depth is said after what else is wrong, up to where recursion ends the reading."""
    for depth in (14, 15, 16, 17, 18, 40, 400, 200_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            body = opening * depth + b"1" + closing * depth
            for document in (b'{"a": ' + body + b"}", body, b'{"a": ' + body, body + b"x"):
                same_answer(probe, document)


def test_what_stands_around_a_document(probe: Probe, documents: list[Any]) -> None:
    document = json.dumps(documents[0]).encode()
    for space in (b"", b"\n", b" \r\n\t"):
        assert not same_answer(probe, space + document + space)[0]
        for junk in (
            b"\x00",
            b"\x00\x00}",
            b"x",
            b",",
            b"{}",
            b"NaN",
            b"\x0b",
            b"\xef\xbb\xbf",
            b"\x1a",
        ):
            for data in (document + space + junk, space + junk + document):
                assert same_answer(probe, data)[0] == "BundleDamaged"


def test_newer_versions(probe: Probe) -> None:
    generators: tuple[Any, ...] = (
        {"name": "fam", "version": "9.1"},
        {"name": "", "version": None},
        {"name": "a\x1b[31m\u202e", "version": {"a": [1.5, "'"]}},
        {"version": "x" * 400},
        {},
        [],
        None,
        "name",
    )
    for generator in generators:
        for version in (0, 1, 2, 2**31, 2**31 + 1, True, "2", 2.0):
            document = {"format_version": version, "generator": generator, "x": 1}
            same_answer(probe, json.dumps(document).encode())
    assert same_answer(probe, b'{"format_version": 2}')[0] == "BundleVersionUnsupported"


def _kinds(answers: list[Answer]) -> collections.Counter[str]:
    """How often each error was given, values left out."""
    counted: collections.Counter[str] = collections.Counter()
    for kind, text in answers:
        if kind:
            what, *_, expected = text.split(" | ")[:3]
            where = re.sub(r"\[[^]]*\]", "[]", what)
            counted[f"{kind}: {where} | {re.sub(r'[0-9]+', 'N', expected)}"] += 1
    return counted


def test_mutations_of_values(probe: Probe, documents: list[Any]) -> None:
    """Types, ranges, names, contradictions: some are accepted, and mean the same then."""
    mutator = Mutator(documents, seed=1)
    answers = [same_answer(probe, mutator.structural(changes=1)) for _ in range(800)]
    answers += [same_answer(probe, mutator.structural(changes=3)) for _ in range(450)]
    refused = _kinds(answers)
    assert 1000 < refused.total() < len(answers) - 100
    assert len(refused) > 200
    classes = collections.Counter(kind for kind, _ in answers)
    assert classes["BundlePathRefused"] > 20
    assert classes["BundleVersionUnsupported"] > 20


def test_mutations_of_text(probe: Probe, documents: list[Any]) -> None:
    """Flipped bytes, lost ends, and pieces of JSON where they do not belong."""
    mutator = Mutator(documents, seed=2)
    refused = _kinds([same_answer(probe, mutator.textual()) for _ in range(800)])
    assert refused.total() > 700
    assert len(refused) > 20


def test_short_documents(probe: Probe) -> None:
    """JSON's tokens in nearly every order, and values that only strictness refuses."""
    rng = random.Random(3)
    answers = [same_answer(probe, some_tokens(rng)) for _ in range(3000)]
    answers += [same_answer(probe, some_document(rng)) for _ in range(3000)]
    refused = _kinds(answers)
    for words in (
        "one JSON object",
        "a JSON object",
        "every key once",
        "integers of at most N",
        "finite numbers",
        "text without lone surrogates",
        "UTF-N",
        "at most N levels",
    ):
        assert refused[f"BundleDamaged: manifest.json cannot be read | expected {words}"]


def test_any_value_in_any_place(probe: Probe, documents: list[Any]) -> None:
    """Each kind of place a few times, with something that is likely to be wrong there."""
    rng = random.Random(4)
    for path in kinds_of_places(documents[-1]) * 3:
        document = edited(documents[-1], path, hostile_value(rng))
        same_answer(probe, json.dumps(document).encode())


def test_names(probe: Probe) -> None:
    """Code points only that Unicode has had for long: newer ones depend on a library's version."""
    rng = random.Random(5)
    old = [chr(c) for c in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(c)) not in _NEW]
    pieces = ("a", "é", ".", "..", "/", " ", "\\", ":", "\n", "a" * 254, "日" * 85)
    names = [name for name, _ in HOSTILE_NAMES]
    for _ in range(2000):
        names += ["".join(rng.choices(pieces, k=4)), "x" + rng.choice(old)]
    for name in names:
        expected = answer_of(check_name, name)
        assert answer_of(probe.ask, "manifest.check_name", name=name) == expected


def test_what_a_manifest_answers(probe: Probe, documents: list[Any]) -> None:
    for document in documents:
        data = json.dumps(document).encode()
        manifest = Manifest.from_bytes(data)
        answers = probe.ask("manifest.answers", data=data.decode("latin-1"), graph=NATIVE)
        assert answers["scales"] == [list(manifest.scale_of(t)) for t in manifest.targets]
        height, width = manifest.latent_size(manifest.native)
        assert answers["latent_size"] == {"height": height, "width": width}
        assert answers["tap_names"] == list(all_tap_names(manifest))
        assert answers["tap_dtype"] == TENSOR_DTYPE_OF_MODEL[manifest.model.dtype]
        assert answers["takes_guidance_scale"] == manifest.model.takes_guidance_scale
        plain = fields(manifest)
        assert answers["graph"] == dict(plain["graphs"])[NATIVE]
        assert answers["file"] == dict(plain["files"])[NATIVE]
        assert answers["graphs"] == {
            name: {
                "tap_specs": json.loads(
                    json.dumps([dataclasses.asdict(s) for s in tap_specs(manifest, name)])
                ),
            }
            for name in manifest.graphs
        }
        none = probe.ask("manifest.answers", data=data.decode("latin-1"), graph="none")
        assert (none["graph"], none["file"]) == (None, None)


def test_targets_by_size(probe: Probe, documents: list[Any]) -> None:
    for document in (*documents, edited(documents[0], ("targets",), [])):
        text = json.dumps(document)
        manifest = Manifest.from_bytes(text.encode())
        for height, width in ((128, 128), (128, 256), (64, 128), (1, 1), (192, 192)):
            size = {"height": height, "width": width}
            kind, expected = answer_of(manifest.target_for, **size)
            expected = expected if kind else dataclasses.asdict(expected)
            found = answer_of(probe.ask, "manifest.target_for", data=text, **size)
            assert found == (kind, expected)


def test_the_export_command(probe: Probe, documents: list[Any]) -> None:
    for document in documents:
        for name in ("demo", "my model", "a/b", "it's", "x;y", "naïve", "a_b-c.d@%+=:,"):
            text = json.dumps(edited(document, ("model", "name"), name))
            manifest = Manifest.from_bytes(text.encode())
            for root in (None, "out", "/a b/c"):
                where = {} if root is None else {"root": root}
                command = probe.ask(
                    "manifest.export_command", data=text, option="--scale 3", **where
                )
                path = None if root is None else Path(root)
                assert command == export_command(manifest, "--scale 3", path)
