"""How the command lines end: one line for a user's mistake, a traceback only for a defect."""

from __future__ import annotations

import argparse
import errno

import pytest

from fam_runtime.cli.errors import run_cli
from fam_runtime.errors import BundleDamaged, InvalidRequest

PARSER = argparse.ArgumentParser(prog="fam-test")


def ending(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def command(_: argparse.Namespace) -> int:
        raise error

    return run_cli(command, PARSER, []), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InvalidRequest("steps", got=0, expected="1 or more"), 2, "steps | got 0 | expected 1"),
        (BundleDamaged("a file"), 3, "fam-test: error: a file"),
        (OSError(errno.ENOSPC, "No space left on device"), 6, "no space left on the disk"),
        (PermissionError(errno.EACCES, "denied", "/x/y"), 6, "/x/y cannot be written"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, text: str
) -> None:
    got, shown = ending(error, capsys)
    assert got == status
    assert text in shown
    assert shown.count("\n") == 1


def test_defects_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError(), capsys)


def test_the_variable_shows_where_an_error_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAM_TRACEBACK", "1")
    with pytest.raises(InvalidRequest):
        ending(InvalidRequest("steps"), capsys)
