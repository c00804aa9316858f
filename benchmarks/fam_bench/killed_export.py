"""An export that is killed again and again must end in the bundle of an undisturbed one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fam_bench.export_run import ExportCommand, kill_export, run_export
from fam_runtime.bundle import Bundle
from fam_runtime.errors import ExportError


@dataclass(frozen=True)
class KillResult:
    """What came of it.

    Attributes:
        moments_s: seconds after its start at which each killed process died.
        finished: runs that ended before their moment: their bundle was compared and removed.
        bundle_hash: of the bundle, with and without kills.
    """

    moments_s: tuple[float, ...]
    finished: int
    bundle_hash: str


def export_with_kills(
    command: ExportCommand,
    expected_hash: str,
    *,
    kills: int,
    seconds: float,
    seed: int,
    say: Callable[[str], None],
) -> KillResult:
    """Kill an export `kills` times, let it end, and compare the bundle.

    Args:
        command: of the export; nothing is at its output yet.
        expected_hash: of the bundle of an undisturbed run.
        kills: how often.
        seconds: that an undisturbed run takes; moments are drawn over them. Each run goes on where
            the killed one was; one that ends before its moment is compared, and begun anew.
        seed: of the moments.
        say: is told about each run.

    Raises:
        ExportError: something was visible under the final name that is not the whole bundle, or
            the bundle differs.
    """
    rng = random.Random(seed)
    moments: list[float] = []
    finished = 0
    while len(moments) < kills:
        moment = rng.uniform(0, seconds)
        killed = kill_export(command, moment)
        _check_and_remove(command.output, expected_hash, expected=not killed)
        if killed:
            moments.append(moment)
        finished += not killed
        say(f"kill {len(moments)} of {kills}: {'at' if killed else 'ended before'} {moment:.1f} s")
    run_export(command)
    check_bundle(command.output, expected_hash)
    return KillResult(tuple(moments), finished, expected_hash)


def _check_and_remove(output: Path, expected_hash: str, *, expected: bool) -> None:
    """Nothing is at `output`, or the whole bundle: a kill may come just after it was published."""
    if output.exists() or output.is_symlink():
        check_bundle(output, expected_hash)
        shutil.rmtree(output)
    elif expected:
        raise ExportError(
            f"the export to {output} ended without a bundle",
            fix="this is a defect of the exporter; please report it",
        )


def check_bundle(path: Path, expected_hash: str) -> None:
    """Re-hash every file of a bundle and compare its manifest with that of another.

    Raises:
        BundleError: a file is not what the manifest says.
        ExportError: the manifest is another one.
    """
    bundle = Bundle.open(path)
    if bundle.hash != expected_hash:
        raise ExportError(
            f"{path} is not the bundle that an undisturbed export makes",
            got=bundle.hash,
            expected=expected_hash,
            fix="this is a defect of the exporter; please report it",
        )
