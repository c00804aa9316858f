"""What `make cpp` built, for the tests that need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpp.library import Library
from tests.cpp.probe import Probe

REQUIRED = "FAM_REQUIRE_CPP"
"""Set where a missing build is a failure, as in continuous integration."""

SANITIZED = "FAM_CPP_SANITIZED"
"""Set where a sanitizer's build is tested, whose library does not load into Python."""

CPP = Path(__file__).parents[2] / "runtime" / "cpp"

BUILD = Path(os.environ.get("FAM_CPP_BUILD", Path(__file__).parents[2] / "build" / "cpp"))


def built(name: str) -> Path:
    """The path of what `make cpp` built as `name`; without it the test is skipped, or fails.

    Of a sanitizer's build only `fam_probe` is for Python.
    """
    if os.environ.get(SANITIZED) and name != "fam_probe":
        pytest.skip(f"{name} of a sanitizer's build is not for Python ({SANITIZED} is set)")
    path = BUILD / name
    if not path.exists():
        message = f"{name} is not built: run make cpp"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{message} ({REQUIRED} is set)", pytrace=False)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def probe() -> Iterator[Probe]:
    """The parts of the C++ runtime."""
    with Probe(built("fam_probe")) as running:
        yield running


@pytest.fixture(scope="session")
def library_path() -> Path:
    """The shared library."""
    return built("libfam.so")


@pytest.fixture(scope="session")
def library(library_path: Path) -> Library:
    """The C ABI."""
    return Library(library_path)
