"""The index of a batch: what became of every line of its file of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fam_runtime.bundle import write_atomically

INDEX_NAME = "index.jsonl"


@dataclass(frozen=True)
class IndexEntry:
    """What became of a line; it survives JSON.

    Attributes:
        line: its number in the file of prompts, from 1.
        state: the picture was made now, was there already, or is missing.
        file: the picture's name in the folder.
        seed: of the picture.
        sha256: of the picture's RGB bytes, row by row; the same on every machine that makes the
            same picture, whatever wrote the file.
        error: why there is no picture.
    """

    line: int
    state: Literal["made", "kept", "failed"]
    file: str | None = None
    seed: int | None = None
    sha256: str | None = None
    error: str | None = None


def write_index(folder: Path, entries: Iterable[IndexEntry]) -> Path:
    """Write the entries as JSON Lines, ordered by line; returns the path.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder / INDEX_NAME
    rows = [
        json.dumps(asdict(entry), ensure_ascii=False)
        for entry in sorted(entries, key=lambda entry: entry.line)
    ]
    write_atomically(path, "".join(f"{row}\n" for row in rows).encode())
    return path
