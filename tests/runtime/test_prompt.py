"""Prompts: tokens as transformers makes them, what is cut, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fam_runtime.errors import BundleDamaged, InvalidRequest
from fam_runtime.prompt import (
    MAX_PROMPT_CHARACTERS,
    PromptTokenizer,
    PromptTruncated,
    TextEmbedding,
    check_embeddings,
    check_prompt,
    warn_truncated,
)
from tests.runtime.fake_bundle import write_tokenizer


class FolderBundle:
    def __init__(self, root):
        self.root = root

    def path(self, name):
        return self.root / name


class Info:
    tokenizer, graph, max_length = "tokenizer.json", "text.onnx", 77

    def __init__(self, size):
        self.bos_token_id, self.eos_token_id, self.pad_token_id = size - 2, size - 1, 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    return PromptTokenizer(FolderBundle(root), Info(write_tokenizer(root / "tokenizer.json")))


def test_ids_are_framed_and_padded(tokenizer):
    ids, cut = tokenizer.input_ids("Cat cat")
    info = tokenizer.encoder
    assert ids.shape == (1, 77)
    assert ids.dtype == np.int64
    assert ids[0, 0] == info.bos_token_id
    assert ids[0, 1] == ids[0, 2]
    assert ids[0, 3] == info.eos_token_id
    assert (ids[0, 4:] == info.pad_token_id).all()
    assert cut == ""


def test_what_does_not_fit_is_the_end_of_the_original_text(tokenizer):
    ids, cut = tokenizer.input_ids("cat " * 74 + "Cat  DOG  bird")
    assert cut == "DOG  bird"
    assert ids[0, -1] == tokenizer.encoder.eos_token_id
    exact, nothing = tokenizer.input_ids("cat " * 75)
    assert nothing == ""
    assert exact[0, -1] == tokenizer.encoder.eos_token_id


@given(st.text(max_size=200))
def test_any_text_gives_77_ids(tokenizer, text):
    try:
        check_prompt("the prompt", text, may_be_empty=True)
    except InvalidRequest:
        return
    ids, cut = tokenizer.input_ids(text)
    assert ids.shape == (1, 77)
    assert cut in text


ODD_TEXTS = [
    "a photo of a cat",
    "  leading,   inner\tand\n trailing white  ",
    "UPPER Case",
    "don't we'll I'd you've she's they're",
    "3.14 x 2026 = many",
    "naïve café — “quoted” …",
    "e\u0301 and \u00e9",
    "日本語の文字",
    "emoji 🐈‍⬛ here",
    "(cat:1.3), [dog], {bird}",
    "<|endoftext|> in the middle <|startoftext|>",
    "a!!! b???",
    "cat " * 100,
    "",
    "under_score snake__case",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """transformers' tokenizer and ours, from the files that a checkpoint has."""
    from transformers import CLIPTokenizer

    root = tmp_path_factory.mktemp("clip")
    write_tokenizer(root / "fake.json")
    model = json.loads((root / "fake.json").read_text("utf-8"))["model"]
    merges = [("c", "a"), ("ca", "t</w>")]
    return lambda pad: CLIPTokenizer(model["vocab"], merges, pad_token=pad)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("text", ODD_TEXTS)
def test_ids_are_those_of_transformers(clip, tmp_path, pad, text):
    theirs = clip(pad)
    theirs.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    info = Info(0)
    info.bos_token_id, info.eos_token_id = theirs.bos_token_id, theirs.eos_token_id
    info.pad_token_id = theirs.pad_token_id
    ours, _ = PromptTokenizer(FolderBundle(tmp_path), info).input_ids(text)
    expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert ours.tolist() == [expected]


def test_a_damaged_tokenizer_is_a_message(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(BundleDamaged, match=r"tokenizer.json is no tokenizer"):
        PromptTokenizer(FolderBundle(tmp_path), Info(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        (None, "not a text"),
        (b"cat", "not a text"),
        ("\udcff", "not valid Unicode"),
        ("x" * (MAX_PROMPT_CHARACTERS + 1), "too long"),
    ],
)
def test_bad_prompts_are_refused(text, message):
    with pytest.raises(InvalidRequest, match=message):
        check_prompt("the prompt", text)


def test_a_long_cut_is_shown_in_part():
    with pytest.warns(PromptTruncated) as caught:
        warn_truncated("y" * 6_000, "y" * 5_000)
    text = str(caught[0].message)
    assert len(text) < 400
    assert "5000 of 6000 characters" in text


def test_texts_have_embeddings_of_one_width():
    widths = {}
    values = {"prompt_embeds": np.zeros((1, 77, 6), np.float32)}
    check_embeddings(Info(10), values, widths)
    check_embeddings(Info(10), values, widths)
    values["prompt_embeds"] = np.zeros((1, 77, 5), np.float32)
    with pytest.raises(
        BundleDamaged, match=r"prompt_embeds does not fit .* 'float32 \(1, 77, 5\)'"
    ):
        check_embeddings(Info(10), values, widths)


def test_no_negative_prompt_is_zeros_of_the_same_shape():
    embedding = TextEmbedding(np.ones((1, 77, 3), np.float32), np.ones((1, 2), np.float32))
    zeros = embedding.zeros_like()
    assert zeros.tokens.shape == (1, 77, 3)
    assert not zeros.tokens.any()
    assert not zeros.pooled.any()
    assert TextEmbedding(embedding.tokens, None).zeros_like().pooled is None
