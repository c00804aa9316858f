"""Finding a checkpoint from what a user calls it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from fam_export.checkpoint.checkpoint import Checkpoint
from fam_export.checkpoint.files import CheckpointFiles
from fam_export.checkpoint.folder import FolderFiles, Variant
from fam_export.checkpoint.hub import is_hub_id, snapshot
from fam_export.checkpoint.lora import Lora
from fam_export.checkpoint.pickles import refuse_pickle
from fam_export.checkpoint.single_file import SingleFile
from fam_runtime.errors import CheckpointError

DEMO = "demo"
"""The name of the small trained checkpoint that ships with the project."""


def open_checkpoint(
    model: str | Path | None,
    *,
    loras: Sequence[Lora] = (),
    config: Path | None = None,
    prefer: Variant = "fp32",
) -> Checkpoint:
    """Find and validate a checkpoint; no weight is read.

    Args:
        model: a diffusers folder, a single safetensors file in the original layout, or the id of a
            model on a hub (``org/name``); None or ``demo`` is the checkpoint that ships with the
            project.
        loras: adapters to merge into the weights; those of strength 0 are left out.
        config: for a single file, a folder with configurations and tokenizers in diffusers' layout,
            or the name of a configuration that ships with the project (``sd21-base``).
        prefer: which weights to read where a folder has them in full and in half precision.

    Raises:
        CheckpointError: nothing usable is there; the text says what to give instead.
    """
    wanted = tuple(lora for lora in loras if lora.strength != 0)
    if model is None or str(model) == DEMO:
        root = Path(str(resources.files("fam_export") / "demo/checkpoint"))
        checkpoint = Checkpoint(FolderFiles(root), DEMO, DEMO, wanted)
    else:
        files, name = _files(model, config, prefer)
        checkpoint = Checkpoint(files, name, str(model), wanted)
    if config is not None and not isinstance(checkpoint.files, SingleFile):
        raise CheckpointError(
            f"{checkpoint.source} brings configurations of its own",
            got=f"config {config}",
            expected="config for a single file only",
            fix="leave it out, or edit the checkpoint's configurations",
        )
    checkpoint.validate()
    return checkpoint


def _files(model: str | Path, config: Path | None, prefer: Variant) -> tuple[CheckpointFiles, str]:
    """The files of `model`, and a name for it."""
    path = Path(model)
    refuse_pickle(path)
    if path.is_dir():
        return FolderFiles(path, prefer), path.resolve().name
    if path.is_file():
        return SingleFile(path, config), path.stem
    if is_hub_id(model):
        return FolderFiles(snapshot(str(model), prefer), prefer), str(model).split("/")[1]
    raise CheckpointError(
        f"there is no checkpoint at {path}",
        expected="a diffusers folder, a .safetensors file, or the id of a model on a hub",
        fix="check the path, or leave --model out to use the demo checkpoint",
    )
