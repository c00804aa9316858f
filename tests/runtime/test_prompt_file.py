"""Files of prompts: what a line means, which lines are refused, and names that stay in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fam_runtime.batch import PromptLine, read_prompts
from fam_runtime.batch.prompt_file import file_from_name, line_from_json
from fam_runtime.bundle import Bundle
from fam_runtime.errors import FamError, InvalidRequest
from fam_runtime.triton.interface import INPUTS
from tests.runtime.fake_bundle import write_bundle

GOOD = [
    ('{"prompt": "a red ring"}', {"seed": 1}),
    (
        '{"prompt": "a cat", "seed": 18446744073709551615, "steps": 3}',
        {"seed": 2**64 - 1, "num_inference_steps": 3},
    ),
    (
        '{"prompt": "a dog", "scale": [2, 4], "guidance_scale": 3, "negative_prompt": "blur"}',
        {"seed": 3, "scale": (2, 4), "guidance_scale": 3, "negative_prompt": "blur"},
    ),
    (
        '{"prompt": "a fox", "height": 128, "width": 256, "method": "am", "scheduler": "euler-a"}',
        {"seed": 4, "height": 128, "width": 256, "method": "am", "scheduler": "euler-a"},
    ),
    ('{"prompt": "an owl", "seed": null, "name": null}', {"seed": 5}),
]
"""Lines, and the arguments of the pipeline that each means besides its prompt and 2 steps."""

BAD = [
    ('{"prompt": " "}', "the prompt is empty"),
    ("{}", "the prompt is empty"),
    ('{"prompt": "x", "scale": 3}', "no target for scale 3"),
    ('{"prompt": "x", "name": "../x"}', "no plain file name"),
    ('{"prompt": "x", "hight": 128}', "keys that mean nothing"),
    ('{"prompt": ["x", "y"]}', "prompt is not a text"),
    ('{"prompt": "x", "negative_prompt": ["y"]}', "negative_prompt is not a text"),
    ('{"prompt": "x", "seed": [1]}', "seed is out of range"),
    ('{"prompt": "x", "seed": true}', "no input is true or false"),
    ('{"prompt": "x", "scheduler": "eular"}', "unknown scheduler"),
    ('{"prompt": "x"', "no JSON object"),
    ("[]", "no JSON object"),
    ("[" * 100_000, "no JSON object"),
    ('{"prompt": "x", "name": "000001"}', "that of line 1"),
]

KEYS = [*(served.name for served in INPUTS), "name"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.unchecked(write_bundle(tmp_path_factory.mktemp("prompts") / "bundle"))


def read(folder: Path, content: bytes, bundle: Bundle, defaults=None):
    path = folder / "prompts.jsonl"
    path.write_bytes(content)
    return read_prompts(path, defaults or {}, bundle)


def test_lines_are_arguments_of_the_pipeline_also_behind_json(tmp_path, bundle):
    content = "\n".join(line for line, _ in GOOD)
    lines, refused = read(tmp_path, content.encode(), bundle, {"steps": 2})
    assert refused == []
    for line, (text, arguments) in zip(lines, GOOD, strict=True):
        prompt = json.loads(text)["prompt"]
        expected = {"prompt": prompt, "num_inference_steps": 2, **arguments}
        assert line.arguments() == expected
        sent = PromptLine(**json.loads(json.dumps(asdict(line))))
        assert sent.arguments() == expected
    assert [line.file for line in lines] == [f"00000{n}.png" for n in range(1, 6)]


def test_bad_lines_are_told_and_stop_no_other(tmp_path, bundle):
    content = "\n".join([GOOD[0][0], *(line for line, _ in BAD), GOOD[1][0]])
    lines, refused = read(tmp_path, content.encode(), bundle)
    assert [line.number for line in lines] == [1, len(BAD) + 2]
    for number, (entry, (_, words)) in enumerate(zip(refused, BAD, strict=True), start=2):
        assert (entry.line, entry.state, entry.file) == (number, "failed", None)
        assert entry.error is not None
        assert words in entry.error


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path, bundle):
    content = '\ufeff{"prompt": "a\u2028b"}\r\n\n{"prompt": "c"}'.encode()
    lines, refused = read(tmp_path, content, bundle)
    assert [(line.number, line.inputs["seed"]) for line in lines] == [(1, 1), (3, 3)]
    assert refused == []


def test_a_file_without_lines_or_no_file_is_a_message(tmp_path, bundle):
    with pytest.raises(InvalidRequest, match="has no line"):
        read(tmp_path, b"\n \r\n", bundle)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_prompts(tmp_path / "missing.jsonl", {}, bundle)


def test_size_of_a_line_replaces_the_default_scale():
    sized = line_from_json(1, b'{"prompt": "x", "height": 128, "width": 256}', {"scale": 2})
    assert "scale" not in sized.inputs
    both = line_from_json(1, b'{"prompt": "x", "height": 128, "scale": 3}', {"scale": 2})
    assert both.inputs["scale"] == 3


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "a\\b", "", ".", "..", ".x", "a\0", " a", "é" * 150, ".png", 7]
)
def test_names_cannot_leave_the_folder(name):
    with pytest.raises(InvalidRequest, match=r"no plain file name|name is not a text"):
        file_from_name(name)


@given(st.text(st.characters() | st.sampled_from("./\\ \0"), max_size=20))
def test_any_name_is_a_file_in_the_folder_or_a_message(name):
    try:
        file = file_from_name(name)
    except InvalidRequest:
        return
    assert Path("/folder", file).parent == Path("/folder")
    assert Path("/folder", file).resolve() == Path("/folder", file)
    assert len(file.encode()) < 255


def test_names_may_be_words_and_end_like_the_file():
    assert file_from_name("ein Häuschen") == "ein Häuschen.png"
    assert file_from_name("x.PNG") == "x.png"


@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES))
def test_any_values_are_a_request_or_a_message(bundle, values):
    try:
        line = line_from_json(1, json.dumps(values).encode(), {"prompt": "x"})
        request = line.request(bundle)
    except FamError:
        return
    assert len(request.pictures) == 1


@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_or_a_message(data):
    try:
        line = line_from_json(7, data, {})
    except InvalidRequest:
        return
    assert line.number == 7
