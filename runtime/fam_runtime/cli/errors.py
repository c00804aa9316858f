"""How a command line ends: a user's mistake is one line on standard error, never a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from fam_runtime.errors import FamError, is_disk_full, storage_error_from

TRACEBACK_VARIABLE = "FAM_TRACEBACK"
"""Set to 1, it shows where an error comes from."""

INTERRUPTED_STATUS = 130


def run_cli(
    command: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse `argv`, run `command` and return the exit status.

    A FamError, a full disk and Ctrl-C end in one line; other errors are defects and keep their
    traceback.
    """
    arguments = parser.parse_args(argv)
    try:
        return command(arguments)
    except FamError as error:
        return _fail(parser.prog, error)
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stderr.close()
        return 1
    except OSError as error:
        # A failed write() knows no file name; only a full disk explains itself without one.
        if error.filename is None and not is_disk_full(error):
            raise
        return _fail(parser.prog, storage_error_from(error, error.filename or "a file"))


def _fail(program: str, error: FamError) -> int:
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        raise error
    print(f"{program}: error: {error}", file=sys.stderr)
    return error.exit_code
