"""Says what an export will need and refuses what the machine cannot do, before weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fam_export.estimate import ExportEstimate, estimate_export
from fam_export.graph_factory import GraphFactory
from fam_export.staging import staging_of
from fam_runtime.bundle import Defaults, PixelSize
from fam_runtime.errors import ExportError, StorageError
from fam_runtime.free_memory import free_memory_bytes

SKIP_PREFLIGHT = "--no-preflight tries all the same"


@dataclass(frozen=True)
class Preflight:
    """What an export needs, and what the machine has.

    Attributes:
        estimate: what it needs.
        free_memory_bytes: None where the system does not say.
        free_disk_bytes: on the disk of the bundle.
        steps: of a picture, by default.
    """

    estimate: ExportEstimate
    free_memory_bytes: int | None
    free_disk_bytes: int
    steps: int

    def lines(self) -> list[str]:
        """For people: what exporting needs, then what generating needs."""
        need = self.estimate
        free_bytes = self.free_memory_bytes
        free_memory = "" if free_bytes is None else f"; {_gb(free_bytes)} free"
        lines = [
            f"  memory  {_gb(need.memory_bytes)}, for the numeric check "
            f"{_gb(need.check_memory_bytes)} in a process of its own{free_memory}",
            f"  disk    {_gb(need.disk_bytes)}; {_gb(self.free_disk_bytes)} free",
            f"  time    about {_duration(sum(need.seconds.values()))} on two cores",
        ]
        if need.targets:
            lines.append(
                f"  then, for one picture of {self.steps} steps: UNet {_gb(need.unet_bytes)} "
                "(twice that for fp16 on a CPU, unless with --low-memory), "
                f"text encoders and VAE {_gb(need.other_bytes)}"
            )
        for target in need.targets:
            stored = self.steps * target.stored_attention_bytes_per_step
            lines.append(
                f"  {target.size!s:>11}  activations {_gb(target.activation_bytes)}, native "
                f"attention {_gb(stored)} stored, or replayed in next to nothing"
            )
        return lines

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ExportError: there is not enough memory.
            StorageError: there is not enough space on the disk.
        """
        need, free = self.estimate, self.free_memory_bytes
        if free is not None and need.least_memory_bytes > free:
            raise ExportError(
                "there is not enough memory for this export",
                got=f"{_gb(free)} free",
                expected=_gb(need.least_memory_bytes),
                fix=f"close other programs, or export on a larger machine; {SKIP_PREFLIGHT}",
            )
        if need.disk_bytes > self.free_disk_bytes:
            raise StorageError(
                "there is not enough space on the disk for the bundle",
                got=f"{_gb(self.free_disk_bytes)} free",
                expected=_gb(need.disk_bytes),
                fix=f"free some, or choose another --output; {SKIP_PREFLIGHT}",
            )


def preflight(
    graphs: GraphFactory, output: Path, targets: Sequence[PixelSize], defaults: Defaults
) -> Preflight:
    """Estimate an export to `output`; nothing but headers and configurations is read.

    Args:
        graphs: of the checkpoint, with the options of the export.
        output: where the bundle goes; one that is there is extended.
        targets: that are added.
        defaults: how pictures are made.
    """
    extends = output.exists() and any(output.iterdir())
    estimate = estimate_export(graphs, targets, extends=extends)
    done = sum(file.stat().st_size for file in staging_of(output).rglob("*") if file.is_file())
    estimate = replace(estimate, disk_bytes=max(estimate.disk_bytes - done, 0))
    place = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    return Preflight(
        estimate,
        free_memory_bytes(),
        shutil.disk_usage(place).free,
        defaults.num_inference_steps,
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{round(seconds / 60)} min"
