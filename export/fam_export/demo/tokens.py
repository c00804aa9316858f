"""The demo's vocabulary: byte-level BPE in CLIP's format, learnt from the world's own words.

The 256 byte symbols and their end-of-word forms come first, so any text at all can be tokenised;
then one entry a merge; the two special tokens last, as in CLIP, so that <|endoftext|> has the
highest id (older transformers find the end of a prompt by argmax).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPTokenizer

from fam_export.demo.architecture import MAX_TOKENS
from fam_export.demo.scenes import caption, sample_scene

START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"

#: Words that users of such tools type; the model has not learnt them, but they cost few tokens.
_FURTHER_WORDS = """
the and with of in at to is it one two three many single several big small large tiny huge round
white brown orange pink gold silver dark bright light blue background object objects shape shapes
centre center middle corner upper lower above below side picture image photo drawing painting
illustration render digital art simple flat clean sharp detailed highly quality best high low worst
bad blurry blur noisy ugly deformed distorted duplicate double doubled repeated extra missing
cropped watermark text signature resolution artifacts jpeg style minimal colourful colorful colour
color pattern stripes dots spotted lines solid rectangle hexagon heart arrow moon sun cat dog house
"""
_CAPTIONS = 4000


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte 0..255 (GPT-2's and CLIP's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    symbols, shift = [], 0
    for byte in range(256):
        if byte in printable:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(256 + shift))
            shift += 1
    return symbols


def _word_counts() -> Counter[str]:
    """How often each word occurs in the corpus: random captions and the list above."""
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter(_FURTHER_WORDS.split())
    for _ in range(_CAPTIONS):
        text = caption(sample_scene(rng), rng)
        counts.update("".join(c if c.isalpha() else " " for c in text).split())
    return counts


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Replace every occurrence of `pair`, from the left, by its concatenation."""
    merged: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return tuple(merged)


def learn_merges() -> list[tuple[str, str]]:
    """Byte-pair encoding until every word of the corpus is one token; ties by alphabet."""
    words = {(*word[:-1], word[-1] + END_OF_WORD): n for word, n in _word_counts().items()}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merge(symbols, best): count for symbols, count in words.items()}


def make_tokenizer() -> CLIPTokenizer:
    """Learn the vocabulary (deterministic, about a second) and wrap it as CLIP's tokenizer."""
    merges = learn_merges()
    entries = byte_symbols()
    entries += [symbol + END_OF_WORD for symbol in byte_symbols()]
    entries += [first + second for first, second in merges]
    entries += [START, END]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    pairs: Any = merges  # annotated as strings, taken as pairs
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=MAX_TOKENS)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json, merges.txt, tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))
