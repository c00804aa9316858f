"""A place in a parsed JSON document: typed reads whose errors name that place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fam_runtime.errors import BundleDamaged

Choice = TypeVar("Choice", bound=str)

MAX_TEXT_CHARACTERS = 1024
"""No name or path of the format is longer."""

MAX_ITEMS = 100_000
"""No list or table of the format is longer."""


@dataclass(frozen=True)
class JsonCursor:
    """`value` and, for messages, `where` it stands (`targets[0].height`)."""

    value: Any
    where: str = ""

    def member(self, key: str) -> JsonCursor:
        """The value under `key`, which must be there."""
        table = self._table()
        place = f"{self.where}.{key}" if self.where else key
        if key not in table:
            raise _wrong(place, got="nothing", expected="this key")
        return JsonCursor(table[key], place)

    def members(self) -> Iterator[tuple[str, JsonCursor]]:
        """Every key with its value."""
        for key, value in self._table().items():
            yield key, JsonCursor(value, f"{self.where}[{key!r}]")

    def items(self) -> list[JsonCursor]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        if len(self.value) > MAX_ITEMS:
            raise _wrong(self.where, got=len(self.value), expected=f"at most {MAX_ITEMS} elements")
        return [JsonCursor(value, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]; neither a boolean nor 1.0."""
        value = self.value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(f"an integer from {low} to {high}")
        return value

    def number(self, low: float, high: float) -> float:
        """A number in [low, high], as a float."""
        value = self.value
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not low <= value <= high
        ):
            raise self.wrong(f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self) -> bool:
        """A boolean."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def text(self) -> str:
        """A string that is not empty, not endless, and safe to print."""
        value = self.value
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARACTERS:
            raise self.wrong(f"a text of 1 to {MAX_TEXT_CHARACTERS} characters")
        if not value.isprintable():
            raise self.wrong("a text without control characters")
        return value

    def choice(self, allowed: tuple[Choice, ...]) -> Choice:
        """One of `allowed`."""
        for option in allowed:
            if isinstance(self.value, str) and self.value == option:
                return option
        raise self.wrong("one of " + ", ".join(map(repr, allowed)))

    def wrong(self, expected: str) -> BundleDamaged:
        """The error for a value that is not what the format says."""
        return _wrong(self.where, got=self.value, expected=expected)

    def _table(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        if len(self.value) > MAX_ITEMS:
            raise _wrong(self.where, got=len(self.value), expected=f"at most {MAX_ITEMS} keys")
        return self.value


def _wrong(where: str, *, got: object, expected: str) -> BundleDamaged:
    return BundleDamaged(
        f"manifest.json: {where or 'the document'} is not right",
        got="null" if got is None else got,
        expected=expected,
        fix="get the bundle again or export it again with fam-export",
    )
