"""The numeric check in a process of its own, whose memory is gone when it ends.

``python -m fam_export.parity`` reads a pickled check on standard input and writes the
pickled outcome to standard output. Only the exporter that started it speaks to it.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from dataclasses import replace

from fam_export.parity.check import Parity
from fam_export.parity.request import GraphCheck, run_check
from fam_export.staging import ExportInterrupted
from fam_runtime.errors import FamError


def check_in_own_process(check: GraphCheck) -> Parity:
    """Like :func:`run_check`.

    Raises:
        ParityError: the graph does not compute what its module computes.
        ExportInterrupted: the process died; if it was killed, memory ran out, most likely.
    """
    # A copy holds nothing that the checkpoint has read so far.
    request = pickle.dumps(replace(check, checkpoint=replace(check.checkpoint)))
    # -P: modules come from where they are installed, never from the current directory.
    command = [sys.executable, "-P", "-m", "fam_export.parity"]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        killed = done.returncode < 0
        raise ExportInterrupted(
            f"the numeric check of {check.file.name} stopped",
            got=f"exit status {done.returncode}",
            expected="a comparison with PyTorch",
            fix=f"{'free some memory' if killed else 'mend what it says above'} and run the same "
            "command again: it goes on from here",
        )
    outcome = pickle.loads(done.stdout)
    if isinstance(outcome, FamError):
        raise outcome
    assert isinstance(outcome, Parity)
    return outcome


def main() -> int:
    """Body of the process."""
    check = pickle.load(sys.stdin.buffer)
    outcome: Parity | FamError
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the outcome
        try:
            outcome = run_check(check)
        except FamError as error:
            outcome = error
    sys.stdout.buffer.write(pickle.dumps(outcome))
    return 0
