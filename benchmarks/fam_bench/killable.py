"""A benchmark's command line, which a polite kill ends as Ctrl-C does."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Sequence

from fam_runtime.cli.errors import run_cli


def run_killable_cli(
    command: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """:func:`run_cli` of a command that starts processes: SIGTERM lets it end them and clean up."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_cli(command, parser, argv)
    finally:
        signal.signal(signal.SIGTERM, previous)
