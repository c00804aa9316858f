"""The folder that full-size measurements work in, and whether the disk has room for them."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fam_bench.export_limits import DTYPE_BYTES
from fam_bench.format_comparison import remove
from fam_bench.random_checkpoint import KINDS, Format, RandomCheckpoint
from fam_runtime.errors import StorageError

ROOM = 1.05
"""For files that are no weights: graphs, kernels, tokenizers."""

GB = 1e9
FORMAT_BYTES: dict[Format, int] = {"folder": 4, "folder-fp16": 2, "single-file": 2}


@dataclass(frozen=True)
class Workplace:
    """Where checkpoints and bundles lie.

    Attributes:
        root: the folder, for one architecture and seed.
        checkpoint: what is written there.
        model: the architecture as the user called it.
        bundle: of the measured export.
        say: is told what is written.
    """

    root: Path
    checkpoint: RandomCheckpoint
    model: str
    bundle: Path
    say: Callable[[str], None]

    @property
    def single_file_config(self) -> Path | None:
        """The configurations of a single file whose architecture was not published."""
        return None if self.model in KINDS else self.checkpoint.configuration.root

    def written(self, form: Format) -> Path:
        """The checkpoint in this form, written unless an earlier run has done it."""
        path = self.root / (f"{form}.safetensors" if form == "single-file" else form)
        if not path.exists():
            self.say(f"writing {path}")
            partial = path.with_name(f"partial-{path.name}")
            if partial.exists():
                remove(partial)
            self.checkpoint.write(form, partial).rename(path)
        return path

    def remove_bundle(self) -> None:
        """So that an export makes one, not adds to it."""
        if self.bundle.exists():
            shutil.rmtree(self.bundle)


@contextmanager
def opened_workplace(
    arguments: argparse.Namespace, checkpoint: RandomCheckpoint, say: Callable[[str], None]
) -> Iterator[Workplace]:
    """A folder for one run, removed afterwards unless the user keeps it.

    Raises:
        StorageError: the disk has not the room.
    """
    parent = arguments.work or Path(tempfile.mkdtemp(prefix="fam-full-size-"))
    root = parent / f"{Path(arguments.model).name}-seed{arguments.seed}"
    bundle = root / f"bundle-{arguments.dtype}-{arguments.scale}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        present = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
        check_disk(needed_bytes(arguments, checkpoint) - present, root, say)
        yield Workplace(root, checkpoint, arguments.model, bundle, say)
    finally:
        if not arguments.keep:
            shutil.rmtree(root if arguments.work else parent, ignore_errors=True)


def needed_bytes(arguments: argparse.Namespace, checkpoint: RandomCheckpoint) -> int:
    """Disk that checkpoints and bundles take at the same time."""
    elements = checkpoint.elements()
    vae = checkpoint.elements("vae")
    # The VAE stays in fp32, its halves in a graph each.
    bundle = (elements - vae) * DTYPE_BYTES[arguments.dtype] + vae * DTYPE_BYTES["fp32"]
    if not arguments.formats:
        written = elements * FORMAT_BYTES[arguments.format]
        bundles = bundle * (2 if arguments.kill else 1)
        return int(ROOM * (written + bundles + engines_bytes(arguments, checkpoint, bundle)))
    sizes = [elements * size for size in FORMAT_BYTES.values()]
    everything = sum(sizes) + (len(sizes) + 1) * bundle
    return int(ROOM * (everything if arguments.keep else max(sizes) + bundle))


def engines_bytes(
    arguments: argparse.Namespace, checkpoint: RandomCheckpoint, bundle: float
) -> float:
    """Disk that plans take: each step graph, native and target, has the UNet's weights."""
    if arguments.backend is None:
        return 0
    unet = checkpoint.elements("unet") * DTYPE_BYTES[arguments.dtype]
    return 2 * unet + (bundle - unet if arguments.engines == "all" else 0)


def check_disk(needed: int, folder: Path, say: Callable[[str], None]) -> None:
    """Say what is needed, and refuse to begin without it.

    Raises:
        StorageError: the disk of `folder` has not that much.
    """
    free = shutil.disk_usage(folder).free
    say(f"needs {max(needed, 0) / GB:.1f} GB in {folder}, where {free / GB:.1f} GB are free")
    if needed > free:
        raise StorageError(
            f"{folder} has not the room for this measurement",
            got=f"{free / GB:.1f} GB free",
            expected=f"{needed / GB:.1f} GB",
            fix="free some space, or choose another place with --work",
        )
