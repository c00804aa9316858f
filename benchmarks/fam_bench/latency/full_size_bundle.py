"""A full-size bundle with random weights for the benchmark: made, or taken from an earlier run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fam_bench.export_run import ExportCommand, run_export
from fam_bench.full_size_workplace import opened_workplace
from fam_bench.random_checkpoint import Format, RandomCheckpoint
from fam_runtime.bundle import Bundle
from fam_runtime.errors import TargetNotBuilt

SEED = 0
FORMAT: Format = "folder-fp16"
AS_USUAL = {"format": FORMAT, "seed": SEED, "kill": 0, "formats": False, "backend": None}
"""What a workplace is told besides."""


@contextmanager
def full_size_bundle(
    model: str,
    scales: Sequence[float],
    *,
    dtype: str,
    work: Path | None,
    say: Callable[[str], None],
) -> Iterator[tuple[Path, Path]]:
    """The folders of a bundle with these targets and of its checkpoint.

    Args:
        model: architecture, as ``full_size.py --model`` takes it.
        scales: of the targets.
        dtype: of the bundle.
        work: where they lie, and stay; None: a temporary folder.
        say: told what goes on.

    Raises:
        ExportError: an export failed.
        StorageError: the disk is too small.
        ImportError: a package for exporting is missing.
    """
    arguments = argparse.Namespace(
        model=model,
        scale="-".join(f"{scale:g}" for scale in scales),
        dtype=dtype,
        work=work,
        keep=work is not None,
        **AS_USUAL,
    )
    with opened_workplace(arguments, RandomCheckpoint.of(model, SEED), say) as workplace:
        written = workplace.written(FORMAT)
        for scale in scales:
            if not has_target(workplace.bundle, scale):
                say(f"exporting {model} at {scale:g}x")
                run_export(ExportCommand(written, workplace.bundle, f"{scale:g}", dtype))
        yield workplace.bundle, written


def has_target(bundle: Path, scale: float) -> bool:
    """Whether there is a bundle with a target of that scale."""
    if not bundle.exists():
        return False
    try:
        Bundle.open(bundle, verify="size").manifest.target_for_scale(scale)
    except TargetNotBuilt:
        return False
    return True
