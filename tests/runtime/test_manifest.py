"""The manifest: one reader and one writer, and every rule that a hostile one may break."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_runtime.bundle import (
    Defaults,
    FileRecord,
    GeneratorInfo,
    LoraInfo,
    Manifest,
    UpsampleInfo,
    export_command,
)
from fam_runtime.bundle.manifest_parts import FrequencyModulationInfo
from fam_runtime.errors import (
    BundleDamaged,
    BundleError,
    BundleVersionUnsupported,
    ExportError,
    TargetNotBuilt,
)
from tests.runtime.fake_bundle import write_bundle

STEP, NATIVE = "unet/target-128x128.onnx", "unet/native.onnx"
DELETED = object()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "sd")
    return (root / "manifest.json").read_bytes()


@pytest.fixture(scope="module")
def data_sdxl(tmp_path_factory):
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "sdxl", family="sdxl")
    return (root / "manifest.json").read_bytes()


@pytest.fixture
def manifest(data):
    return Manifest.from_bytes(data)


def changed(data, *edits):
    """The document with `(path, value)` edits; DELETED removes, a function is called with it."""
    document = json.loads(data)
    for path, value in edits:
        *parents, last = path
        place = document
        for key in parents:
            place = place[key]
        if value is DELETED:
            del place[last]
        else:
            place[last] = value(place[last]) if callable(value) else value
    return json.dumps(document).encode()


text = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | text
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(
    name=text,
    defaults=st.builds(
        Defaults,
        st.sampled_from(["ddim", "dpm++2m", "euler", "euler-a", "lcm"]),
        st.integers(1, 100),
        st.floats(0, 1000) | st.integers(0, 1000),
        st.floats(0, 1),
    ),
    check=st.dictionaries(text, json_values, max_size=4),
    record=st.builds(
        FileRecord, st.integers(0, 2**50), st.text("0123456789abcdef", min_size=64, max_size=64)
    ),
    beta=st.floats(0, 1),
    loras=st.lists(
        st.builds(LoraInfo, text, st.just("c" * 64), st.floats(-1000, 1000)), max_size=2
    ).map(tuple),
    activation_bytes=st.integers(0, 2**50),
)
@settings(max_examples=25, deadline=None)
def test_round_trip(data, name, defaults, check, record, beta, loras, activation_bytes):
    base = Manifest.from_bytes(data)
    graph = dataclasses.replace(base.graphs[NATIVE], check=check, activation_bytes=activation_bytes)
    manifest = dataclasses.replace(
        base,
        generator=GeneratorInfo(name, name),
        model=dataclasses.replace(base.model, name=name, loras=loras),
        defaults=defaults,
        graphs={**base.graphs, NATIVE: graph},
        files={**base.files, "extra/" + "".join(c for c in name if c.isalnum()) + "x": record},
        noise_schedule={**base.noise_schedule, "beta_start": beta},
    )
    written = manifest.to_bytes()
    back = Manifest.from_bytes(written)
    assert back == manifest
    assert back.to_bytes() == written


def test_bytes_are_canonical(data, manifest):
    assert manifest.to_bytes() == data
    document = json.loads(data)
    assert data == (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
    shuffled = json.dumps(dict(reversed(document.items()))).encode()
    assert Manifest.from_bytes(shuffled).to_bytes() == data
    assert Manifest.from_bytes(shuffled).hash == manifest.hash


def test_unknown_keys_are_ignored(data, manifest):
    later = changed(data, (("later",), {"x": 1}), (("model", "later"), 1))
    assert Manifest.from_bytes(later) == manifest


WRONG_VALUES = [
    (("format_version",), 0, "an integer from 1"),
    (("format_version",), True, "an integer from 1"),
    (("format_version",), 1.0, "an integer from 1"),
    (("model",), [], "model is not right.*an object"),
    (("model", "name"), "", "a text of 1 to 1024"),
    (("model", "name"), "x" * 1025, "a text of 1 to 1024"),
    (("model", "name"), "a\x1bb", "without control characters"),
    (("model", "family"), "flux", "one of 'sd', 'sdxl'"),
    (("model", "dtype"), None, "got 'null'.*'fp16'"),
    (("model", "guidance"), 1, "true or false"),
    (("model", "guidance_embedding"), 1, "true or false"),
    (("model", "loras"), {}, "model.loras is not right.*a list"),
    (("model", "loras"), [{"name": "x", "sha256": "x", "strength": 1}], "64 lower-case hexadec"),
    (("model", "loras"), [{"name": "x", "sha256": "0" * 64, "strength": "1"}], "from -1000"),
    (("model", "latent_channels"), 65, "from 1 to 64"),
    (("model", "vae_scaling_factor"), 0, "a number from 1e-06"),
    (("model", "vae_scaling_factor"), "1", "a number from 1e-06"),
    (("model", "size_multiple"), -8, "from 1 to 4096"),
    (("model", "force_zeros_for_empty_prompt"), 0, "true or false"),
    (("native", "height"), 65_537, "from 1 to 65536"),
    (("targets",), {}, "targets is not right.*a list"),
    (("targets", 0, "height"), "128", r"targets\[0\].height.*an integer"),
    (("taps", "form"), "q", "one of 'qk', 'maps'"),
    (("taps", "layers", 0, "tokens"), [8], "two integers"),
    (("taps", "layers", 0, "heads"), 0, "from 1 to 1024"),
    (("frequency_modulation", "cutoff_constant"), 3, "from 0 to 2"),
    (("frequency_modulation", "inside_box"), "x", "'one_minus_rho'"),
    (("upsample", "space"), "x", "'latent', 'pixel'"),
    (("upsample", "mode"), "x", "'bicubic'"),
    (("size_conditions",), "x", "'stage', 'native'"),
    (("noise_schedule", "beta_schedule"), "x", "'scaled_linear'"),
    (("noise_schedule", "beta_start"), 2, "from 0 to 1"),
    (("noise_schedule", "trained_betas"), [0.1], "null or 100 numbers"),
    (("noise_schedule", "steps_offset"), 101, "from 0 to 100"),
    (("noise_schedule", "timestep_spacing"), "x", "'trailing'"),
    (("noise_schedule", "num_train_timesteps"), 0, "from 1 to 100000"),
    (("noise_schedule", "original_inference_steps"), 0, "from 1 to 100000"),
    (("noise_schedule", "timestep_scaling"), 0, "a number from 1e-06"),
    (("text_encoders", 0, "max_length"), 1, "from 2 to"),
    (("text_encoders", 0, "pad_token_id"), -1, "from 0 to"),
    (("defaults", "scheduler"), "x", "'euler-a'"),
    (("defaults", "am_strength"), 1.1, "from 0 to 1"),
    (("defaults", "guidance_scale"), -1, "from 0 to 1000"),
    (("graphs", NATIVE, "check"), [], "check is not right.*an object"),
    (("graphs", NATIVE, "activation_bytes"), -1, "from 0 to"),
    (("graphs", NATIVE, "inputs", 0, "dtype"), "float8", "'float32'"),
    (("graphs", NATIVE, "inputs", 0, "shape"), [1] * 9, "at most 8 dimensions"),
    (("graphs", NATIVE, "inputs", 0, "shape", 0), "Q", "'2B'"),
    (("graphs", NATIVE, "inputs", 0, "shape", 0), 0, "from 1 to"),
    (("graphs", NATIVE, "inputs", 1, "name"), "latent", "every name once"),
    (("files", NATIVE, "bytes"), -1, "from 0 to"),
    (("files", NATIVE, "sha256"), "A" * 64, "64 lower-case hexadecimal"),
    (("files", NATIVE, "sha256"), "a" * 64 + "\n", "64 lower-case hexadecimal"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), WRONG_VALUES)
def test_wrong_values(data, path, value, message):
    with pytest.raises(BundleDamaged, match=message) as caught:
        Manifest.from_bytes(changed(data, (path, value)))
    assert "manifest.json: " in str(caught.value)


def test_every_key_is_needed(data):
    """Every key of every object but the free-form ones, one at a time."""

    def paths(value, path=()):
        if isinstance(value, dict):
            for key, inner in value.items():
                if path not in {("graphs",), ("files",)}:
                    yield (*path, key)
                yield from paths(inner, (*path, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value[:1]):
                yield from paths(inner, (*path, index))

    wanted = [p for p in paths(json.loads(data)) if p[0] not in ("graphs", "files")]
    wanted += [("graphs", NATIVE, k) for k in ("inputs", "outputs", "check", "activation_bytes")]
    wanted += [("files", NATIVE, k) for k in ("bytes", "sha256")]
    assert len(wanted) > 60
    for path in wanted:
        with pytest.raises(BundleDamaged, match=r"got 'nothing' \| expected this key"):
            Manifest.from_bytes(changed(data, (path, DELETED)))


def _channels(shape):
    return [shape[0], 5, *shape[2:]]


CONTRADICTIONS = [
    ((("files", "manifest.json"), {"bytes": 1, "sha256": "0" * 64}), "every file except itself"),
    ((("files", "unet"), {"bytes": 1, "sha256": "0" * 64}), "to be a file or a folder"),
    ((("files", "unet/weights.bin"), {"bytes": 1, "sha256": "0" * 64}), "weights.json together"),
    ((("files", NATIVE), DELETED), "a file listed in files"),
    ((("graphs", NATIVE), DELETED), "the native step.*a file listed in graphs"),
    ((("graphs", STEP), DELETED), r"targets\[0\].step.*listed in graphs"),
    (
        (("graphs", "x.txt"), {"inputs": [], "outputs": [], "check": {}, "activation_bytes": 0}),
        "ends with .onnx",
    ),
    ((("model", "guidance_embedding"), True), "at most one of guidance and guidance_embedding"),
    ((("targets", 0, "kernels"), "fm/none"), r"targets\[0\].kernels.*listed in files"),
    ((("vae", "decoder"), "none.onnx"), "vae.decoder.*listed in graphs"),
    ((("text_encoders",), []), "at least one text encoder"),
    ((("text_encoders", 0, "tokenizer"), "none"), "tokenizer.*listed in files"),
    ((("model", "size_multiple"), 12), "a multiple of vae_scale_factor, 8"),
    ((("native", "height"), 72), "multiples of size_multiple, 64"),
    ((("native", "height"), 192), "no side smaller than native"),
    ((("targets",), lambda t: t[::-1]), "sorted and unique sizes"),
    ((("targets",), lambda t: [t[0], t[0]]), "sorted and unique sizes"),
    ((("size_conditions",), "stage"), "null for sd"),
    ((("model", "family"), "sdxl"), "'stage' or 'native' for sdxl"),
    ((("defaults", "num_inference_steps"), 101), "at most num_train_timesteps, 100"),
    ((("taps", "layers"), lambda layers: layers * 2), "every layer once"),
    ((("taps", "layers", 0, "channels"), 5), "divisible by 2 heads"),
    ((("taps", "layers", 0, "tokens"), [9, 8]), "a grid within the latent, 8x8"),
    ((("taps", "layers", 0, "tokens"), [4, 8]), r"what model.dtype and the layer say.*32, 4"),
    ((("taps", "layers", 0, "channels"), 8), "what model.dtype and the layer say"),
    ((("taps", "form"), "maps"), "got 'no attention_map"),
    ((("model", "dtype"), "fp16"), "what model.dtype and the layer say, float16"),
    ((("graphs", NATIVE, "inputs"), lambda i: i[1:]), "got 'no latent'"),
    ((("graphs", NATIVE, "inputs", 0, "shape"), _channels), "latent is not right.*float32"),
    ((("graphs", STEP, "outputs", 0, "dtype"), "float16"), "next_latent is not right"),
    ((("graphs", STEP, "inputs", -1, "shape"), [2, 64, 4]), "what the native graph gives"),
    ((("graphs", "vae_decoder/model.onnx", "outputs"), []), "got 'no image'"),
    ((("graphs", "text_encoder/model.onnx", "inputs"), []), "got 'no input_ids'"),
    ((("graphs", "unet/upsample-128x128.onnx", "outputs"), []), "got 'no reference_latent'"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), CONTRADICTIONS)
def test_contradictions(data, edit, message):
    with pytest.raises(BundleDamaged, match=message):
        Manifest.from_bytes(changed(data, edit))


def test_sdxl_needs_a_pooled_embedding(data_sdxl):
    Manifest.from_bytes(data_sdxl)
    edit = (("graphs", "text_encoder_2/model.onnx", "outputs"), lambda outputs: outputs[:1])
    with pytest.raises(BundleDamaged, match="no pooled_prompt_embeds.*one encoder of an sdxl"):
        Manifest.from_bytes(changed(data_sdxl, edit))


def test_inputs_of_a_later_format(data):
    new = {"name": "control_residual.0", "dtype": "float32", "shape": ["B"]}
    edit = (("graphs", NATIVE, "inputs"), lambda inputs: [*inputs, new])
    with pytest.raises(BundleVersionUnsupported, match=r"control_residual\.0.*upgrade"):
        Manifest.from_bytes(changed(data, edit))


def test_a_newer_version_is_told_before_anything_else(data):
    newer = b'{"format_version": 2, "generator": {"name": "fam", "version": "9.1"}, "x": 1}'
    with pytest.raises(BundleVersionUnsupported, match=r"version 2, written by fam 9\.1.*upgrade"):
        Manifest.from_bytes(newer)
    with pytest.raises(BundleVersionUnsupported, match="a newer fam-export"):
        Manifest.from_bytes(b'{"format_version": 2, "generator": []}')


NOT_STRICT_JSON = [
    (b"", "a syntax error at line 1.*one JSON object"),
    (b'{"a": 1,\n}', "a syntax error at line 2"),
    (b"[1\n,\n]", "a syntax error at line 3"),
    (b'{"a": tru\n}', "a syntax error at line 1"),
    (b"[]", "got 'list'.*a JSON object"),
    (b'{"a": 1, "a": 1}', "key 'a' twice"),
    (b'{"a": {"b": 1, "b": 2}}', "key 'b' twice"),
    (b'{"a": NaN}', "NaN.*finite numbers"),
    (b'{"a": -Infinity}', "-Infinity.*finite numbers"),
    (b'{"a": 1e999}', "1e999.*finite numbers"),
    (b'{"a": 9007199254740992}', "integers of at most 9007199254740991"),
    (b'{"a": ' + b"9" * 5000 + b"}", "integers of at most"),
    (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "at most 16 levels"),
    (b'{"a": ' + b"[" * 200_000, "at most 16 levels"),
    (b'{"a": "\\ud800"}', "lone surrogates"),
    (b'{"\\udfff": 1}', "lone surrogates"),
    (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
    (b"\xef\xbb\xbf{}", "one JSON object"),
    (b" " * (16 * 1024 * 1024 + 1), "at most 16777216 bytes"),
]


@pytest.mark.parametrize(("raw", "message"), NOT_STRICT_JSON)
def test_strict_json(raw, message):
    with pytest.raises(BundleDamaged, match=message) as caught:
        Manifest.from_bytes(raw)
    assert len(str(caught.value)) < 600


@given(draw=st.data())
@settings(max_examples=80, deadline=None)
def test_any_value_in_any_place(data, draw):
    """Whatever stands there, the answer is a manifest or an error of a bundle."""
    document = json.loads(data)
    place, key, depth = document, draw.draw(st.sampled_from(sorted(document))), 0
    while isinstance(place[key], (dict, list)) and place[key] and depth < 6:
        if draw.draw(st.booleans()):
            break
        place = place[key]
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key, depth = draw.draw(st.sampled_from(keys)), depth + 1
    place[key] = draw.draw(json_values)
    try:
        manifest = Manifest.from_bytes(json.dumps(document).encode())
    except BundleError:
        return
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_a_writer_meets_the_same_rules(manifest):
    wrong = dataclasses.replace(manifest, defaults=Defaults(am_strength=2))
    with pytest.raises(ExportError, match="breaks the format.*am_strength.*from 0 to 1"):
        wrong.to_bytes()
    graph = dataclasses.replace(manifest.graphs[NATIVE], check={"x": float("nan")})
    wrong = dataclasses.replace(manifest, graphs={**manifest.graphs, NATIVE: graph})
    with pytest.raises(ExportError, match="not JSON"):
        wrong.to_bytes()


def test_targets_by_size_and_scale(manifest):
    assert manifest.target_for(128, 256) == manifest.targets[1]
    assert manifest.target_for_scale(2) == manifest.targets[0]
    assert manifest.target_for_scale((2, 4)) == manifest.targets[1]
    for call, fix in (
        (lambda: manifest.target_for(64, 128), "--size 64x128"),
        (lambda: manifest.target_for_scale(3), "--scale 3"),
        (lambda: manifest.target_for_scale((4.0, 2.0)), "--size 256x128"),
    ):
        with pytest.raises(TargetNotBuilt, match=rf"128x256 \(scale 2x4\).*fam-export .*{fix}$"):
            call()


def test_the_export_command_repeats_what_is_not_default(manifest):
    assert export_command(manifest, "--scale 3") == "fam-export --model PATH_TO_fake --scale 3"
    other = dataclasses.replace(
        manifest,
        model=dataclasses.replace(
            manifest.model,
            name="my model",
            guidance=False,
            dtype="fp16",
            loras=(LoraInfo("ink", "0" * 64, 0.8),),
        ),
        taps=dataclasses.replace(manifest.taps, form="maps"),
        frequency_modulation=FrequencyModulationInfo(cutoff_reference="native"),
        upsample=UpsampleInfo(space="pixel", mode="nearest"),
        size_conditions="native",
    )
    assert shlex.split(export_command(other, "--size 64x128", Path("/a b/c"))) == [
        *("fam-export", "--model", "PATH_TO_my model", "--size", "64x128", "--output", "/a b/c"),
        *("--no-guidance", "--dtype", "fp16", "--taps", "maps", "--fm-cutoff", "native"),
        *("--upsample", "nearest", "--upsample-space", "pixel", "--size-conditions", "native"),
        *("--lora", "PATH_TO_ink:0.8"),
    ]
    demo = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, name="demo"))
    assert export_command(demo, "--scale 4", Path("d")) == "fam-export --scale 4 --output d"


def test_the_export_command_is_one_that_fam_export_takes(manifest):
    from fam_export.cli_options import argument_parser, options_from
    from fam_export.options import ExportOptions

    words = shlex.split(export_command(manifest, "--scale 3", Path("out")))
    assert options_from(argument_parser().parse_args(words[1:])) == ExportOptions()
    other = dataclasses.replace(manifest, upsample=UpsampleInfo("pixel", "bilinear"))
    words = shlex.split(export_command(other, "--scale 3", Path("out")))
    options = options_from(argument_parser().parse_args(words[1:]))
    assert options == ExportOptions(upsample_space="pixel", upsample_mode="bilinear")
