"""The programs with the tests that C++ asks itself; sanitizers run them on their own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.conftest import Exported
from tests.cpp.conftest import built

CYCLES = 5
"""How often a bundle is opened, used and freed while memory is watched."""


def run(program: Path, **environment: str) -> None:
    """Run a program of doctest's, all of whose tests must pass."""
    done = subprocess.run(
        [program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, f"{program.name}: {done.returncode}\n{done.stdout}"
    assert re.search(r"test cases: +[1-9]", done.stdout), done.stdout


def test_the_parts() -> None:
    run(built("fam_unit_tests"))


def test_the_wrapper_as_an_application_uses_it(tiny: Exported) -> None:
    program = built("fam_api_tests")
    run(program, FAM_TEST_BUNDLE=str(tiny.bundle), FAM_TEST_CYCLES=str(CYCLES))
