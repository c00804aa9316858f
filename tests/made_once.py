"""Folders that all processes of a test run share, each made by whichever needs it first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

IN_ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER"
MAX_WAIT_S = 900


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, for reading only.

    Args:
        factory: of the session; a process of several has its folder within that of the run.
        name: the same for the same contents.
        make: fills a folder, which exists; it fails for each process anew.
    """
    root = factory.getbasetemp()
    if IN_ONE_OF_SEVERAL in os.environ:
        root = root.parent
    folder, unfinished = root / name, root / f"{name}.unfinished"
    with FileLock(root / f"{name}.lock", timeout=MAX_WAIT_S):
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
