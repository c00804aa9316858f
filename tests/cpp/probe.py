"""The C++ runtime's parts, asked through `fam_probe`, the program that is built for these tests."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fam_runtime.closing import Closing


@dataclass(frozen=True)
class CppError(Exception):
    """An error of the C++ runtime.

    Attributes:
        code: of the C ABI.
        kind: name of the Python class that stands for it.
        text: its words.
    """

    code: int
    kind: str
    text: str


class Probe(Closing):
    """A running `fam_probe`.

    Args:
        program: its path.
    """

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def ask(self, command: str, **arguments: object) -> Any:
        """What `command` answers.

        Raises:
            CppError: it answers with an error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"fam_probe died in {command}: {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            raise CppError(error["code"], error["class"], error["text"])
        return answer["ok"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
