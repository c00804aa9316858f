"""Which units are measured together, and what stands in the way of one beforehand."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from fam_bench.latency.ablated_graphs import WEIGHTS_LEFT_OUT, write_ablated_graphs
from fam_bench.latency.contestants import (
    BY_NAME,
    NATIVE_STEPS,
    PICTURE_KINDS,
    STEP_KINDS,
    Device,
    Kind,
)
from fam_bench.latency.units import Unit
from fam_runtime.bundle import NATIVE_GRAPH, Bundle, Target
from fam_runtime.errors import FamError, InvalidRequest, TargetNotBuilt

LARGE_STEP_BYTES = 10**9
"""From so many weights on a step on the CPU takes minutes."""

GROUPS: dict[str, tuple[Kind, ...]] = {"steps": STEP_KINDS, "pictures": PICTURE_KINDS}
"""Kinds that are timed side by side, by the name that asks for all of them."""


@dataclass(frozen=True)
class Circumstances:
    """What is known before anything is loaded.

    Attributes:
        bundle: what is measured.
        model: its checkpoint; empty if it is not known.
        device: where.
        no_gpu: why there is no GPU; empty if there is one.
        no_ablated: why there are no graphs without FM, AM and taps; empty if there are.
        named: contestants that the user asked for by name.
    """

    bundle: Bundle
    model: str
    device: Device
    no_gpu: str
    no_ablated: str
    named: frozenset[str]


def contestants_from_text(text: str | None) -> list[str]:
    """Names in the order of tables; None: all.

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


def kinds_asked_for(names: Sequence[str] | None, *, direct: bool = False) -> frozenset[Kind]:
    """Kinds to measure.

    Args:
        names: of groups and of single kinds; None: all groups.
        direct: pictures by direct inference come with their group, not by their own name only.
    """
    asked = set(names or GROUPS)
    found = {kind for group, kinds in GROUPS.items() for kind in kinds if asked & {group, kind}}
    if not direct and "direct" not in asked:
        found.discard("direct")
    return frozenset(found)


def batches(
    contestants: Sequence[str], scales: Sequence[float], kinds: Set[Kind]
) -> list[list[Unit]]:
    """Units that are timed in turn: the steps of each scale, the native one with the first of
    them, and then pictures.

    Args:
        contestants: names.
        scales: of targets.
        kinds: which of these.
    """
    found = []
    for group in GROUPS.values():
        for index, scale in enumerate(scales):
            own = [k for k in group if k in kinds and (index == 0 or k not in NATIVE_STEPS)]
            batch = [unit for name in contestants for unit in _units(name, own, scale)]
            if batch:
                found.append(batch)
    return found


def _units(name: str, kinds: Sequence[Kind], scale: float) -> Iterator[Unit]:
    for kind in kinds:
        if kind in BY_NAME[name].kinds:
            yield Unit(name, kind, 1.0 if kind in NATIVE_STEPS else scale)


def obstacle(unit: Unit, here: Circumstances) -> str:
    """Why a unit need not be tried; empty if it should be."""
    contestant = BY_NAME[unit.contestant]
    if here.device not in contestant.devices:
        if "cpu" in contestant.devices:
            return "is measured on a CPU only"
        return f"needs a GPU: {here.no_gpu or 'the benchmark was told to use the CPU'}"
    if contestant.needs_checkpoint and not here.model:
        return "PyTorch needs the checkpoint of the bundle: name it with --model"
    for package in packages_of(unit):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is missing"
    if unit.kind not in NATIVE_STEPS:
        try:
            here.bundle.manifest.target_for_scale(unit.scale)
        except TargetNotBuilt as error:
            return str(error)
    if (unit.kind in WEIGHTS_LEFT_OUT or unit.kind == "direct") and here.no_ablated:
        return f"the steps without FM and AM could not be made: {here.no_ablated}"
    size, named = weights_of_steps(here.bundle), unit.contestant in here.named
    if contestant.is_slow_beside_a_gpu(here.device) and size > LARGE_STEP_BYTES and not named:
        return f"with {size / 1e9:.1f} GB of weights it takes minutes; ask for it by --contestants"
    return ""


def packages_of(unit: Unit) -> Iterator[str]:
    """What a unit imports besides the library that computes, which says itself what it lacks."""
    contestant = BY_NAME[unit.contestant]
    if contestant.needs_checkpoint:
        yield from ("torch", "diffusers", "transformers", "safetensors")
    if contestant.way == "openvino":
        yield "openvino"
    if unit.is_picture:
        yield from ("tokenizers", "PIL")


def weights_of_steps(bundle: Bundle) -> int:
    """Bytes of the native step graph with its weights, which the others share."""
    files = bundle.manifest.files
    beside = {f"unet/{tensor.location}" for tensor in bundle.external_data(NATIVE_GRAPH)}
    return files[NATIVE_GRAPH].bytes + sum(files[name].bytes for name in beside)


def make_ablated_graphs(bundle: Bundle, scales: Sequence[float], folder: Path) -> str:
    """Write the steps without FM, AM and taps; returns why not, or nothing."""
    found = [target_at(bundle, scale) for scale in scales]
    try:
        write_ablated_graphs(bundle, [target for target in found if target is not None], folder)
    except ModuleNotFoundError as error:
        return f"the package {error.name} is missing"
    except (FamError, OSError) as error:
        return " ".join(str(error).split())
    return ""
