"""Which units the GPU check measures together, and what stands in the way of one beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fam_bench.gpu_units import BY_NAME, REFERENCE, STEP_KINDS, Device, Unit
from fam_bench.plain_graph import write_plain_steps
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, Target
from fam_runtime.errors import FamError, InvalidRequest, TargetNotBuilt

LARGE_STEP_BYTES = 10**9
"""From so many weights on a step on the CPU takes minutes."""


@dataclass(frozen=True)
class Circumstances:
    """What is known before anything is loaded.

    Attributes:
        bundle: what is measured.
        model: its checkpoint; empty if it is not known.
        device: where.
        no_gpu: why there is no GPU; empty if there is one.
        no_plain: why there are no plain steps; empty if there are.
        named: contestants that the user asked for by name.
    """

    bundle: Bundle
    model: str
    device: Device
    no_gpu: str
    no_plain: str
    named: frozenset[str]


def contestants_from_text(text: str | None) -> list[str]:
    """Names in the order of the check; None: all.

    Raises:
        InvalidRequest: one is unknown.
    """
    if text is None:
        return list(BY_NAME)
    names = {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(BY_NAME)):
        raise InvalidRequest(
            "unknown contestants",
            got=", ".join(unknown),
            expected=", ".join(BY_NAME),
            fix="leave --contestants out for all of them",
        )
    return [name for name in BY_NAME if name in names]


def uniform_scales(bundle: Bundle) -> list[float]:
    """Scales of the targets that are as many times higher as wider."""
    scales = [bundle.manifest.scale_of(target) for target in bundle.manifest.targets]
    return sorted(height for height, width in scales if height == width)


def target_at(bundle: Bundle, scale: float) -> Target | None:
    """The target, if the bundle has it."""
    try:
        return bundle.manifest.target_for_scale(scale)
    except TargetNotBuilt:
        return None


def batches(contestants: Sequence[str], scales: Sequence[float]) -> list[list[Unit]]:
    """Units that are timed in turn: the steps of each scale, the native one with the first of
    them, and then pictures."""
    steps = [
        [
            Unit(name, kind, 1.0 if kind == "native" else scale)
            for name in contestants
            for kind in STEP_KINDS
            if kind != "native" or index == 0
        ]
        for index, scale in enumerate(scales)
    ]
    return steps + [[Unit(name, "picture", scale) for name in contestants] for scale in scales]


def obstacle(unit: Unit, here: Circumstances) -> str:
    """Why a unit need not be tried; empty if it should be."""
    contestant = BY_NAME[unit.contestant]
    if here.device not in contestant.devices:
        return f"needs a GPU: {here.no_gpu or 'the check was told to use the CPU'}"
    if unit.kind == "picture" and not contestant.backend:
        return "PyTorch is compared step by step; whole_run.py compares pictures"
    if not contestant.backend and not here.model:
        return "PyTorch needs the checkpoint of the bundle: name it with --model"
    if unit.kind != "native":
        try:
            here.bundle.manifest.target_for_scale(unit.scale)
        except TargetNotBuilt as error:
            return str(error)
    if unit.kind == "plain" and here.no_plain:
        return f"the plain step could not be made: {here.no_plain}"
    size = weights_of_steps(here.bundle)
    if unit.contestant == REFERENCE and size > LARGE_STEP_BYTES and REFERENCE not in here.named:
        return f"with {size / 1e9:.1f} GB of weights it takes minutes; ask for it by --contestants"
    return ""


def weights_of_steps(bundle: Bundle) -> int:
    """Bytes of the native step graph with its weights, which the others share."""
    files = bundle.manifest.files
    beside = {f"unet/{tensor.location}" for tensor in bundle.external_data(NATIVE_GRAPH)}
    return files[NATIVE_GRAPH].bytes + sum(files[name].bytes for name in beside)


def make_plain_steps(bundle: Bundle, scales: Sequence[float], folder: Path) -> str:
    """Write the plain steps of the targets that there are; returns why not, or nothing."""
    found = [target_at(bundle, scale) for scale in scales]
    try:
        write_plain_steps(bundle, [target for target in found if target is not None], folder)
    except ModuleNotFoundError as error:
        return f"the package {error.name} is missing"
    except (FamError, OSError) as error:
        return " ".join(str(error).split())
    return ""
