"""Tokens, and where they begin, are those of the tokenizers library; texts are those of Python."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from fam_export.checkpoint.shipped import configuration_named
from fam_export.demo.tokens import make_tokenizer
from fam_runtime.errors import BundleDamaged, FamError
from fam_runtime.prompt import PromptTokenizer, check_prompt, warn_truncated
from tests.cpp.probe import CppError, Probe
from tests.cpp.tokenizer_texts import PROMPT, characters_between_letters, texts_of_every_kind

MARKERS = r"<\|startoftext\|>|<\|endoftext\|>|"
CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d|"
WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def demo(folder: Path) -> Path:
    """The demo bundle's."""
    return write(folder / "demo.json", make_tokenizer().backend_tokenizer.to_str(pretty=True))


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """The vocabulary of CLIP with the added token "!", as SDXL's second tokenizer has it."""
    from transformers import CLIPTokenizer

    with configuration_named("sdxl").tokenizer_folder("tokenizer_2") as source:
        tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=True)
    return write(folder / "clip.json", tokenizer.backend_tokenizer.to_str(pretty=True))


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """Merges learnt from texts of every script; not every byte has a token of its own."""
    tokenizer = Tokenizer(
        models.BPE(
            unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix=""
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(MARKERS + CONTRACTIONS + WORDS), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=6_000,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator(texts_of_every_kind(3_000, seed=1), trainer)
    return write(folder / "trained.json", tokenizer.to_str())


@pytest.fixture(scope="module", params=["demo", "clip", "trained"])
def path(request: pytest.FixtureRequest) -> Path:
    return cast(Path, request.getfixturevalue(request.param))


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def edited(source: Path, target: Path, edit: Edit) -> Path:
    document = json.loads(source.read_text("utf-8"))
    edit(document)
    return write(target, json.dumps(document))


def assert_same_tokens(probe: Probe, path: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer.from_file(str(path))
    found = probe.ask("text.encode", path=str(path), texts=texts)
    assert len(found) == len(texts)
    for text, (ids, starts) in zip(texts, found, strict=True):
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert ids == expected.ids, ascii(text)
        assert starts == [start for start, _ in expected.offsets], ascii(text)


def python_tokenizer(path: Path, max_length: int) -> PromptTokenizer:
    bundle: Any = SimpleNamespace(path=lambda name: path)
    info: Any = SimpleNamespace(
        tokenizer=path.name, max_length=max_length, bos_token_id=3, eos_token_id=4, pad_token_id=5
    )
    return PromptTokenizer(bundle, info)


def test_texts_of_every_kind(probe: Probe, path: Path) -> None:
    assert_same_tokens(probe, path, texts_of_every_kind(4_000, seed=sum(path.name.encode())))


def test_every_character(probe: Probe, clip: Path) -> None:
    assert_same_tokens(probe, clip, characters_between_letters(per_text=256))


@pytest.mark.parametrize("max_length", [77, 6, 2])
def test_what_fits_and_what_is_cut(probe: Probe, path: Path, max_length: int) -> None:
    texts = [*texts_of_every_kind(1_000, seed=3), *(f"x  {PROMPT} y " * n for n in range(1, 9))]
    tokenizer = python_tokenizer(path, max_length)
    found = probe.ask(
        "text.input_ids", path=str(path), texts=texts, max_length=max_length, bos=3, eos=4, pad=5
    )
    cuts = 0
    for text, (ids, cut) in zip(texts, found, strict=True):
        expected_ids, expected_cut = tokenizer.input_ids(text)
        assert [ids] == expected_ids.tolist(), ascii(text)
        assert cut == expected_cut, ascii(text)
        cuts += cut != ""
    assert cuts >= 8


@pytest.mark.parametrize("pattern", [CONTRACTIONS + WORDS, WORDS, MARKERS + WORDS])
@pytest.mark.parametrize("use_regex", [True, False, None])
def test_patterns_of_other_writers(
    probe: Probe, demo: Path, tmp_path: Path, pattern: str, use_regex: bool | None
) -> None:
    def edit(document: dict[str, Any]) -> None:
        split, byte_level = document["pre_tokenizer"]["pretokenizers"]
        split["pattern"]["Regex"] = pattern
        byte_level["use_regex"] = use_regex
        if use_regex is None:
            del byte_level["use_regex"]
        document["added_tokens"] = []
        document["post_processor"] = None

    source = edited(demo, tmp_path / "tokenizer.json", edit)
    assert_same_tokens(probe, source, texts_of_every_kind(700, seed=4))


def test_merges_as_texts(probe: Probe, demo: Path, tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        model = document["model"]
        model["merges"] = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
        for absent in ("fuse_unk", "byte_fallback", "ignore_merges", "continuing_subword_prefix"):
            del model[absent]

    source = edited(demo, tmp_path / "tokenizer.json", edit)
    assert_same_tokens(probe, source, texts_of_every_kind(700, seed=5))


def test_added_tokens(probe: Probe, demo: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(demo))
    raw = ["<sks>", "<sk", "ab", "abab", "É", "\u0301", " x", "of the"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in raw])
    found_in_lower_case = ["Cat", "<|END|>", "e\u0301\u0301", "A\t B", " qq", "<|endoftext|>"]
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in found_in_lower_case])
    source = write(tmp_path / "tokenizer.json", tokenizer.to_str())
    given = [*raw, *found_in_lower_case, "b", "ABAB", "caT", "é\u0301", "a  b", "<|end|>", " ", "É"]
    texts = ["".join(parts) for parts in zip(given, given[3:], given[5:], strict=False)]
    texts += [a + b for a in given for b in given]
    texts += ["a \t\u3000qq", "  QQ", "x\u2003 \x85 qq qq"]
    assert_same_tokens(probe, source, texts + texts_of_every_kind(700, seed=6))


def test_numbers_of_added_tokens_are_not_the_files(
    probe: Probe, demo: Path, tmp_path: Path
) -> None:
    def edit(document: dict[str, Any]) -> None:
        token = document["added_tokens"][0]
        for content, number in [("xyz", 5), ("zyx", 7), ("xyz", 9), ("", 1)]:
            document["added_tokens"].append({**token, "content": content, "id": number})

    source = edited(demo, tmp_path / "tokenizer.json", edit)
    assert_same_tokens(probe, source, ["xyzzyx a xyz", "<|endoftext|>zyx"])


BROKEN: dict[str, Edit] = {
    "version": lambda d: d.update(version="2.0"),
    "no model": lambda d: d.pop("model"),
    "no vocab": lambda d: d["model"].pop("vocab"),
    "vocab of texts": lambda d: d["model"].update(vocab={"a": "b"}),
    "vocab of lists": lambda d: d["model"].update(vocab={"a": []}),
    "negative number": lambda d: d["model"]["vocab"].update(a=-1),
    "huge number": lambda d: d["model"]["vocab"].update(a=2**32),
    "merge not in vocab": lambda d: d["model"]["merges"].append(["zq", "qz"]),
    "merge of three": lambda d: d["model"]["merges"].append(["a", "b", "c"]),
    "merge of one": lambda d: d["model"]["merges"].append(["a"]),
    "merges in two ways": lambda d: d["model"]["merges"].append("a b"),
    "merge of numbers": lambda d: d["model"].update(merges=[[1, 2]]),
    "merge of lists": lambda d: d["model"].update(merges=[[["a"], "b"]]),
    "added text": lambda d: d["added_tokens"].append("<x>"),
    "normalizer": lambda d: d["normalizer"]["normalizers"].append({"type": "Nothing"}),
    "split": lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Nothing"),
}
"""What the tokenizers library refuses, too."""

OF_ANOTHER_KIND: dict[str, Edit] = {
    "no normalizer": lambda d: d.update(normalizer=None),
    "other normalizer": lambda d: d["normalizer"]["normalizers"][0].update(type="NFKC"),
    "other spaces": lambda d: d["normalizer"]["normalizers"][1].update(content="_"),
    "no pre_tokenizer": lambda d: d.pop("pre_tokenizer"),
    "hostile pattern": lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(
        Regex="(a+)+$"
    ),
    "pattern of text": lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"String": "x"}
    ),
    "keeps spaces": lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Isolated"),
    "prefix space": lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    "trims": lambda d: d["post_processor"].update(trim_offsets=True),
    "dropout": lambda d: d["model"].update(dropout=0.5),
    "suffix": lambda d: d["model"].update(end_of_word_suffix="_"),
    "prefix": lambda d: d["model"].update(continuing_subword_prefix="##", merges=[]),
    "fuse": lambda d: d["model"].update(fuse_unk=True),
    "fallback": lambda d: d["model"].update(byte_fallback=True),
    "ignore merges": lambda d: d["model"].update(ignore_merges=True),
    "no unknown": lambda d: d["model"].update(unk_token=None),
    "unknown is unknown": lambda d: d["model"].update(unk_token="<unk>"),
    "single word": lambda d: d["added_tokens"][0].update(single_word=True),
    "same in lower case": lambda d: d["added_tokens"].extend(
        {**d["added_tokens"][0], "content": content, "normalized": True} for content in "æÆ"
    ),
    "strips": lambda d: d["added_tokens"][0].update(lstrip=True),
}
"""What the tokenizers library runs, but not as CLIP's."""


@pytest.mark.parametrize("case", [*BROKEN, *OF_ANOTHER_KIND])
def test_other_tokenizers_are_refused(probe: Probe, demo: Path, tmp_path: Path, case: str) -> None:
    source = edited(demo, tmp_path / "x.json", {**BROKEN, **OF_ANOTHER_KIND}[case])
    if case in BROKEN:
        with pytest.raises(BundleDamaged, match=r"x\.json is no tokenizer \| got "):
            python_tokenizer(source, 77)
    else:
        python_tokenizer(source, 77)
    assert_refused(probe, source.read_text("utf-8"))


@pytest.mark.parametrize(
    "data",
    ["", "{}", "[]", "nul", "{\"version\": \"1.0\"", "[" * 200_000, '{"a": 1, "a": 1}', '"\\ud800"']
)  # fmt: skip
def test_what_is_no_tokenizer_json_is_refused(probe: Probe, data: str) -> None:
    assert_refused(probe, data)


def test_a_key_twice_is_refused(probe: Probe, demo: Path) -> None:
    text = demo.read_text("utf-8")
    for key in ('"vocab": {', '"merges": ['):
        twice = text.replace(key, f"{key}{'}' if '{' in key else ']'}, {key}", 1)
        json.loads(twice)
        assert_refused(probe, twice)


def assert_refused(probe: Probe, data: str) -> None:
    with pytest.raises(CppError) as caught:
        probe.ask("text.load", data=data, name="t/x.json")
    assert caught.value.kind == "BundleDamaged"
    what, got, expected, fix = caught.value.text.split(" | ")
    assert what == "t/x.json is no tokenizer"
    assert got.startswith("got '") or got.startswith('got "')
    assert expected == "expected a tokenizer.json of the tokenizers library"
    assert fix == "export the bundle again"


@pytest.mark.parametrize("may_be_empty", [False, True])
def test_prompts_are_checked(probe: Probe, tmp_path: Path, may_be_empty: bool) -> None:
    texts = ["", " \n\u3000", "\x1c", "cat", "é" * 20_000, "é" * 20_001, " " * 20_001, "\u200b"]
    for text in texts:
        expected = python_checked(text, may_be_empty)
        assert checked(probe, tmp_path, text.encode(), may_be_empty) == expected


@pytest.mark.parametrize(
    ("data", "byte"),
    [(b"\xff", 0), (b"cat\xc3", 3), (b"ab\xed\xa0\x80", 2), (b"\xc0\x80", 0), (b"\xf5aaa", 0)],
)
def test_a_prompt_that_is_no_text_is_refused(
    probe: Probe, tmp_path: Path, data: bytes, byte: int
) -> None:
    assert checked(probe, tmp_path, data, may_be_empty=True) == (
        f"the prompt is not valid Unicode | got 'byte {byte} is not UTF-8' | expected text in UTF-8"
        " | check the encoding of the terminal or of the file it came from"
    )


def checked(probe: Probe, tmp_path: Path, data: bytes, may_be_empty: bool) -> str | None:
    path = tmp_path / "prompt"
    path.write_bytes(data)
    try:
        probe.ask("text.check_prompt", what="the prompt", path=str(path), may_be_empty=may_be_empty)
    except CppError as error:
        assert error.kind == "InvalidRequest"
        return error.text
    return None


def python_checked(text: str, may_be_empty: bool) -> str | None:
    try:
        check_prompt("the prompt", text, may_be_empty=may_be_empty)
    except FamError as error:
        return str(error)
    return None


def test_the_warning_of_a_cut(probe: Probe) -> None:
    cuts = [
        "the lost end",
        "it's",
        'say "it\'s"',
        "x" * 200,
        "x" * 201,
        "é" * 300,
        "\n\x00\U0001f600",
    ]
    for cut in [*cuts, *(text for text in texts_of_every_kind(300, seed=7) if text.isascii())]:
        text = f"a cat {cut}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_truncated(text, cut)
        expected = str(caught[0].message)
        assert probe.ask("text.truncation_message", text=text, cut=cut) == expected
