"""Texts of every kind, for tests of tokenizers: seeded, so that a failure comes again."""

from __future__ import annotations

import random
import unicodedata

SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u3000"
INVISIBLE = "\x00\x07\x7f\u00ad\u200b\u200d\u200e\u200f\u2060\u202e\ufe0f\ufeff\ufffd\U000e0041"
CONTRACTIONS = ["'s", "'T", "'re", "'VE", "'m", "'ll", "'D", "'x", "''s", "’s", "'", "'ſ"]
MARKERS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|EndOfText|>",
    "<|startoftext|",
    "|endoftext|>",
    "!",
]
EMOJI = ["🐈‍⬛", "👩🏽‍🚀", "🏳️‍🌈", "👨‍👩‍👧‍👦", "🇩🇪", "1️⃣", "❤️", "😀"]
CASES = ["İ", "ΑΣ", "ς", "ẞ", "ß", "ǅ", "Ω", "K", "Å", "ﬁ", "Ⅷ", "Ⓐ", "𐐀", "Ა", "Ꭰ", "ꭰ"]
ORDERS = ["\u0344\u0323", "\u0f73\u0f71", "ế", "q\u0307\u0323", "\u0958", "\u2126", "가\u11a7"]
ORDERS += ["\U00011935\U00011930", "\U000105d2\u0307", "\U00011131\U00011127"]
DIGITS = "0123456789٣४๕Ⅻ½²①〇一百𝟘𑁦"
PROMPT = """a photo of the cat dog and red highly detailed oil painting portrait woman 4k 8k
trending on artstation by greg rutkowski sharp focus cinematic lighting fox's don't We're naïve
café Zürich Ångström smörgåsbord Łódź fiancée (masterpiece:1.3) [blurry] {x} snake_case --ar 16:9
3.14 2026"""
WORDS = PROMPT.split()

_COMBINING = [chr(c) for c in range(0x20000) if unicodedata.combining(chr(c))]
_COMPOSED = [
    chr(c)
    for c in range(0x30000)
    if unicodedata.decomposition(chr(c)) and "<" not in unicodedata.decomposition(chr(c))
]


def texts_of_every_kind(count: int, seed: int) -> list[str]:
    """`count` texts of 0 to some hundred characters."""
    rng = random.Random(seed)
    kinds = (_block, _marks, _hangul, _prompt, _mixture, _anything, _long_word)
    found = ["", " ", "\u0301", *CONTRACTIONS, *MARKERS, *EMOJI, *CASES, *ORDERS, *SPACES]
    while len(found) < count:
        found.append(kinds[len(found) % len(kinds)](rng))
    return found[:count]


def characters_between_letters(per_text: int) -> list[str]:
    """The two first planes of Unicode whole, and some of every other, each behind a letter."""
    planes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x34000, 7)]
    planes += [*range(0x34000, 0x10FFFF, 997), *range(0xE0000, 0xE1000), 0x10FFFF]
    return [
        "".join(f"a{chr(c)}" for c in planes[i : i + per_text])
        for i in range(0, len(planes), per_text)
    ]


def _block(rng: random.Random) -> str:
    """Neighbours in Unicode, as words: any script, assigned or not."""
    last = rng.choice([0x3000, 0x10000, 0x1FC00, 0x33480])
    first = rng.randrange(0, last, 128)
    letters = [c for c in map(chr, range(first, first + 128)) if not 0xD800 <= ord(c) < 0xE000]
    return "".join(rng.choice([*letters, " "]) for _ in range(rng.randrange(40)))


def _marks(rng: random.Random) -> str:
    """Letters with marks in any order, composed and not."""
    bases = ["a", "E", "o", " ", *rng.sample(_COMPOSED, 8)]
    return "".join(
        rng.choice(bases) + "".join(rng.choice(_COMBINING) for _ in range(rng.randrange(5)))
        for _ in range(rng.randrange(1, 9))
    )


def _hangul(rng: random.Random) -> str:
    jamo = [*range(0x1100, 0x1200), *range(0xA960, 0xA97D), *range(0xD7B0, 0xD7FC), 0x302E, 0x11A7]
    return "".join(
        chr(rng.randrange(0xAC00, 0xD7A4)) if rng.random() < 0.3 else chr(rng.choice(jamo))
        for _ in range(rng.randrange(20))
    )


def _prompt(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randrange(60))]
    return "".join(word + rng.choice([" ", " ", " ", ", ", "\n", "  ", "", ". "]) for word in words)


def _mixture(rng: random.Random) -> str:
    parts: list[list[str]] = [WORDS, CONTRACTIONS, MARKERS, EMOJI, CASES, ORDERS]
    parts += [list(SPACES), list(INVISIBLE), list(DIGITS), list("!?.,;:'\"<|>()-_/\\&%$#@*+=~^`")]
    return "".join(rng.choice(rng.choice(parts)) for _ in range(rng.randrange(40)))


def _anything(rng: random.Random) -> str:
    codes = [rng.randrange(0x110000) >> rng.randrange(12) for _ in range(rng.randrange(24))]
    return "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)


def _long_word(rng: random.Random) -> str:
    letters = rng.choice(["ab", "the", "áé", "中文", "😀👍", "0123", "!?<|>", "nnneee'st"])
    return "".join(rng.choice(letters) for _ in range(rng.randrange(300)))
