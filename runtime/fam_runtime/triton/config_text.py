"""`config.pbtxt`: protocol buffers' text format, from plain values, with comments.

Strings are quoted and escaped here, so that no name or path can end its field and begin another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_INDENT = "  "


@dataclass(frozen=True)
class Keyword:
    """A word that is written without quotes: the value of an enumeration."""

    word: str


@dataclass(frozen=True)
class Comment:
    """Lines for the reader of the file, before the next field."""

    text: str


Scalar = str | bool | int | float | Keyword
Field = tuple[str, "Scalar | Message"] | Comment
Message = Sequence[Field]
"""Fields in order; a repeated field comes several times."""


def text_from_message(message: Message) -> str:
    """The text format of `message`."""
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Message, indent: str) -> Iterator[str]:
    for item in message:
        if isinstance(item, Comment):
            yield from (f"{indent}# {line}".rstrip() for line in item.text.splitlines())
            continue
        name, value = item
        if isinstance(value, (str, bool, int, float, Keyword)):
            yield f"{indent}{name}: {_scalar(value)}"
        else:
            yield f"{indent}{name} {{"
            yield from _lines(value, indent + _INDENT)
            yield f"{indent}}}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, Keyword):
        return value.word
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    return repr(value)


def _quoted(text: str) -> str:
    """`text` in quotes; everything but printable ASCII as octal bytes, which every parser reads."""
    escaped = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in "\"\\'" else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{escaped}"'
