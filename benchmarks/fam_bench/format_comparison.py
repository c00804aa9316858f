"""The same weights from every form of a checkpoint: the UNet's weights in the bundles are equal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fam_bench.export_run import ExportCommand, run_export
from fam_bench.random_checkpoint import FORMATS, Format, RandomCheckpoint
from fam_runtime.bundle import Bundle
from fam_runtime.errors import ExportError

COMPARED = ("unet/weights.bin", "unet/weights.json")
NEUTRAL_LORA = "single-file, LoRA at 0"

Written = Callable[[Format], Path]
"""Where the checkpoint in a form is, writing it if need be."""


def weights_by_format(
    checkpoint: RandomCheckpoint,
    written: Written,
    command: ExportCommand,
    *,
    keep: bool,
    say: Callable[[str], None],
) -> Mapping[str, Mapping[str, str]]:
    """SHA-256 of each of :data:`COMPARED` by form, and for one with a LoRA at strength 0.

    Args:
        checkpoint: the weights.
        written: writes a form.
        command: of an export; model, output and LoRAs are replaced.
        keep: leave checkpoints and bundles where they are.
        say: is told about each form.
    """
    folder = command.output.parent
    hashes: dict[str, Mapping[str, str]] = {}
    for form in FORMATS:
        model = written(form)
        own = replace(
            command,
            model=model,
            output=folder / f"bundle-{form}",
            config=command.config if form == "single-file" else None,
        )
        hashes[form] = _exported_hashes(own, keep=keep)
        say(f"{form}: {hashes[form][COMPARED[0]]}")
        if form == "single-file":
            lora = checkpoint.write_lora(folder / "lora.safetensors")
            own = replace(own, output=folder / "bundle-lora", loras=(f"{lora}:0",))
            hashes[NEUTRAL_LORA] = _exported_hashes(own, keep=keep)
            say(f"{NEUTRAL_LORA}: {hashes[NEUTRAL_LORA][COMPARED[0]]}")
        if not keep:
            remove(model)
    return hashes


def check_equal(hashes: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse hashes that differ from form to form.

    Raises:
        ExportError: they do.
    """
    first, *others = hashes
    for other in others:
        for file in COMPARED:
            if hashes[other][file] != hashes[first][file]:
                raise ExportError(
                    f"{file} exported from {other} is not that from {first}",
                    got=hashes[other][file],
                    expected=hashes[first][file],
                    fix="this is a defect of the exporter; please report it",
                )


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _exported_hashes(command: ExportCommand, *, keep: bool) -> Mapping[str, str]:
    run_export(command)
    files = Bundle.open(command.output).manifest.files  # which re-hashes them
    hashes = {name: files[name].sha256 for name in COMPARED}
    if not keep:
        remove(command.output)
    return hashes
