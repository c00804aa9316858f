"""Texts of errors: what Python's str, repr and FamError make of a value, C++ makes, too."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import random
import struct
import unicodedata
from pathlib import Path

import pytest

from fam_runtime.errors import FamError, InvalidRequest, storage_error_from
from tests.cpp.probe import CppError, Probe

LATEST_OF_BOTH = "14.0.0"
"""Unicode of Python 3.11; utf8proc knows a newer one, which gave names to unassigned characters."""


def texts(count: int) -> list[str]:
    """Texts of characters of every kind."""
    rng = random.Random(5)
    kinds = ["abc'\"\\", " \t\n\r\x0b\x1c\x85\u00a0\u2003\u2028", "\x00\x07\x7f\u200b\ufeff\ue000"]
    kinds += ["äπЖעب中한😀", "\u0301\u20d0\U0001f3fd", "".join(map(chr, range(0x20, 0x250)))]
    return ["".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randrange(30)))
            for _ in range(count)]  # fmt: skip


def numbers(count: int) -> list[float]:
    """Numbers at every border of notation, and of every size."""
    rng = random.Random(6)
    found = [0.0, -0.0, 1.0, 0.1, 1e-4, 9.9999e-5, 1e15, 1e16, 123456.0, 1234567.0, 999999.5, 1e22]
    found += [
        math.inf,
        -math.inf,
        math.nan,
        5e-324,
        1.7976931348623157e308,
        2**53 - 1.0,
        0.30000004,
    ]
    found += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(count)]
    found += [round(rng.uniform(-1000, 1000), rng.randrange(8)) for _ in range(count)]
    return found


def test_texts(probe: Probe) -> None:
    for text in texts(500):
        assert probe.ask("base.repr", text=text) == repr(text)
        assert probe.ask("base.text", text=text) == {
            "strip": text.strip(),
            "on_one_line": str(FamError(text)),
            "is_printable": text.isprintable(),
            "length": len(text),
        }


def test_every_character_that_both_know_is_printable_in_both_or_in_neither(probe: Probe) -> None:
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    assert unicodedata.unidata_version >= LATEST_OF_BOTH
    for start in range(0, len(known), 4096):
        text = "".join(known[start : start + 4096])
        assert probe.ask("base.repr", text=text) == repr(text)


def test_numbers(probe: Probe) -> None:
    for value in numbers(1000):
        bits = struct.pack(">d", value).hex()
        answer = probe.ask("base.number", bits=bits)
        assert answer == {"repr": repr(value), "general": f"{value:g}"}


def test_utf8_is_refused_at_the_same_byte(probe: Probe, tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "text"
    whole = "aé中😀".encode()
    hostile = [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\x80", b"ab\xff"]
    hostile += [bytes(b ^ (rng.randrange(256) if rng.random() < 0.2 else 0) for b in whole)
                for _ in range(500)]  # fmt: skip
    for data in hostile:
        path.write_bytes(data)
        try:
            data.decode("utf-8")
            expected = None
        except UnicodeDecodeError as error:
            expected = error.start
        assert probe.ask("base.utf8", path=str(path)) == expected, data


@pytest.mark.parametrize("got", [None, "a\nvalue", "é" * 300, ""])
def test_the_text_of_an_error(probe: Probe, got: str | None) -> None:
    parts = {"expected": "one of\ttwo", "fix": "do \x1b[31m this"}
    with pytest.raises(CppError) as raised:
        probe.ask("base.error", what=" what  happened", got=got, **parts)
    expected = InvalidRequest(" what  happened", got=got, **parts)
    assert (raised.value.kind, raised.value.text) == ("InvalidRequest", str(expected))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_the_text_of_a_failure_to_write(probe: Probe, number: int) -> None:
    with pytest.raises(CppError) as raised:
        probe.ask("base.storage_error", errno=number, path="/a/b.png")
    expected = storage_error_from(OSError(number, os.strerror(number)), "/a/b.png")
    assert (raised.value.kind, raised.value.text) == ("StorageError", str(expected))


def test_sha256(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 1000)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert probe.ask("base.sha256", path=str(path)) == expected
