"""The command that adds a target to a bundle: fam-export with the options it was made with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fam_runtime.bundle.manifest_parts import FrequencyModulationInfo, UpsampleInfo

if TYPE_CHECKING:
    from fam_runtime.bundle.manifest import Manifest

_DEMO = "demo"


def export_command(manifest: Manifest, option: str, root: Path | None = None) -> str:
    """The command line that adds a target to the bundle of `manifest`.

    A manifest does not know where its checkpoint lies, so ``PATH_TO_…`` stands for it; nor whether
    its tap layers are the default ones, so a bundle exported with ``--tap-layers`` needs that too.

    Args:
        manifest: of the bundle.
        option: the target, such as ``--scale 3`` or ``--size 192x256``.
        root: where the bundle lies; without it the command has no ``--output``.
    """
    name = manifest.model.name
    model = [] if name == _DEMO else ["--model", shlex.quote(f"PATH_TO_{name}")]
    output = [] if root is None else ["--output", shlex.quote(str(root))]
    return " ".join(["fam-export", *model, option, *output, *_other_options(manifest)])


def _other_options(manifest: Manifest) -> list[str]:
    """Options of fam-export that are not at their defaults."""
    cutoff = manifest.frequency_modulation.cutoff_reference
    chosen = {
        "--dtype": (manifest.model.dtype, "fp32"),
        "--taps": (manifest.taps.form, "qk"),
        "--fm-cutoff": (cutoff, FrequencyModulationInfo().cutoff_reference),
        "--upsample": (manifest.upsample.mode, UpsampleInfo().mode),
        "--upsample-space": (manifest.upsample.space, UpsampleInfo().space),
        "--size-conditions": (manifest.size_conditions or "stage", "stage"),
    }
    options = [] if manifest.model.guidance else ["--no-guidance"]
    options += [f"{name} {value}" for name, (value, usual) in chosen.items() if value != usual]
    for lora in manifest.model.loras:
        path = shlex.quote(f"PATH_TO_{lora.name}:{lora.strength!r}")
        options.append(f"--lora {path}")
    return options
