"""Pieces of JSON and of what is nearly JSON, for readers that must agree about it."""

from __future__ import annotations

import random

SPACES = (b"", b"", b" ", b"\n", b"\r\n", b"\t", b"\r", b"\n\n", b"\x0b", b"\xc2\xa0")

OPENING = (
    b"{", b"[", b'{"a"', b'{"a":', b'{"a": 1,', b"[1,", b"[[", b'{"b": {', b'{"\\u0061": 0,',
)  # fmt: skip

CLOSING = (
    b"}", b"]", b",", b":", b"]]", b"}}", b"],", b"},", b',"a":', b',"b": 2', b'"', b",,",
)  # fmt: skip

_NUMBERS = (
    b"0", b"-0", b"01", b"1.", b"1.5", b"-", b"+1", b".5", b"1e5", b"1E+5", b"1e", b"1e-", b"1.e5",
    b"0x10", b"1-2", b"1e999", b"-1E+999", b"1e-999", b"1.5e400x", b"0.1e999", b"-0.0",
    b"9007199254740991", b"9007199254740992", b"-9007199254740991", b"-9007199254740992",
    b"99999999999999999", b"100000000000000000", b"18446744073709551616", b"9223372036854775808",
    b"-9223372036854775809", b"99999999999999999999e", b"1-99999999999999999999.x",
    b"-99999999999999999999.", b"99999999999999999999.", b"99999999999999999999x",
    b"9" * 400, b"9" * 400 + b".5", b"9" * 400 + b".5e", b"0." + b"0" * 400 + b"1e",
    b"1.7976931348623157e308", b"1.7976931348623159e308", b"4.9e-324", b"0.1000000000000000055511",
)  # fmt: skip

_LITERALS = (
    b"NaN", b"Infinity", b"-Infinity", b"-Inf", b"Nan", b"nan", b"--Infinity", b"1NaN", b"NaN1",
    b"-NaN", b"true", b"false", b"null", b"True", b"nul", b"nulll", b"tru\n", b"fals", b"None",
    b"/* */ 1", b"// x\n1", b"#", b"\\u0031", b"'a'",
)  # fmt: skip

_TEXTS = (
    b'"a"', b'""', b'"a', b'"\\"', b'"\\x"', b'"\\u12"', b'"\\u12g4"', b'"\\u00e9"', b'"\t"',
    b'"a\nb"', b'"\\u0000"', b'"\x7f"', b'"\xf0\x9d\x84\x9e"', b'"[99999999999999999999',
    b'"[99999999999999999999\t"', b'": NaN', b'"a\\\n"', b'"\\/\\b\\f\\n\\r\\t"',
)  # fmt: skip

_SURROGATES = (
    b'"\\ud800"', b'"\\udc00"', b'"\\ud834\\udd1e"', b'"\\ud834\\ud834\\udd1e"', b'"\\ud800\\n"',
    b'"\\uDBFF\\u0041"', b'"\\ud800\\u12"', b'"\\\\ud800"', b'"\\\\\\ud800"', b'"\\udD1e\'"',
    b'"\\ue000"', b'"\xee\x80\x80"', b'"\\uE000\\ud800"', b'"\xee\x80\x80\\udfff"',
    b'{"\\ud800": 1}', b'["\\ud800", "\\udfff"]', b'{"x": "\\ud800", "y": ["\\udfff", "z"]}',
    b'{"\\ud800": 1, "\\ud800": 2}', b'{"\\ud800": 1, "\\ud801": 2}',
    b'{"\\ue000d800": 1, "\\ud800": 2}', b'{"\\ue000\\ud800": 1, "\\ue000": 2, "\\ue000": 3}',
)  # fmt: skip

_CONTAINERS = (
    b"[]", b"{}", b'{"a": 1, "a": 1}', b'{"b": {"a": 1, "a": 1}, "b": 1}',
    b'{"a": 1, "b": 1, "b": 2, "a": 2}', b"[" * 17 + b"]" * 17, b"[" * 400,
    b"[" * 18 + b'"\\ud800"' + b"]" * 18, b'["\\ud800", ' + b"[" * 18 + b"]" * 18 + b"]",
)  # fmt: skip

VALUES = (*_NUMBERS, *_LITERALS, *_TEXTS, *_SURROGATES, *_CONTAINERS)

BAD_BYTES = (
    b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80", b"\xf5",
    b"\xf0\x9f\x98", b"\xef\xbb\xbf", b"\\", b"\x1f", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8",
    b"\x80",
)  # fmt: skip


def some_tokens(rng: random.Random) -> bytes:
    """A few tokens in an order that may be JSON."""
    words: list[bytes] = []
    for _ in range(rng.randint(1, 9)):
        words.append(rng.choice(rng.choice((OPENING, VALUES, VALUES, CLOSING))))
        words.append(rng.choice(SPACES))
    if rng.random() < 0.02:
        words.insert(rng.randrange(len(words)), rng.choice(BAD_BYTES))
    if rng.random() < 0.5:
        words = [b'{"a": [', *words, rng.choice((b"]}", b"\n]\n}", b"}", b""))]
    return b"".join(words)


_KEYS = (b'"a"', b'"b"', b'"\\u0061"', b'"\\ud800"', b'"\\ue000"', b'""', b'"c\\n"')


def some_document(rng: random.Random) -> bytes:
    """An object that is JSON but for what its values are, and for one place of some."""
    document = _some_object(rng, depth=1)
    if rng.random() < 0.3:
        position = rng.randrange(len(document))
        junk = rng.choice(rng.choice((OPENING, CLOSING, SPACES, BAD_BYTES)))
        document = document[:position] + junk + document[position + rng.randrange(2) :]
    return document


def _some_object(rng: random.Random, *, depth: int) -> bytes:
    members = []
    for _ in range(rng.choice((0, 1, 2, 2, 3))):
        key, value = rng.choice(_KEYS), _some_value(rng, depth=depth)
        members.append(rng.choice(SPACES[:8]).join((b"", key, b":", value, b"")))
    return b"{" + b",".join(members) + b"}"


def _some_value(rng: random.Random, *, depth: int) -> bytes:
    kind = rng.random() * depth
    if kind < 0.7:
        return _some_object(rng, depth=depth + 1)
    if kind < 1.2:
        items = [_some_value(rng, depth=depth + 1) for _ in range(rng.randrange(4))]
        return b"[" + (b"," + rng.choice(SPACES[:8])).join(items) + b"]"
    return rng.choice((b"1", b"-2.5", b'"x"', b"null", b'"\\udead"', rng.choice(VALUES)))
