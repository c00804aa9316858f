"""Which weights a LoRA changes, and by what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fam_export.checkpoint.lora import Lora
from fam_export.checkpoint.lora_keys import (
    DOWN,
    UP,
    NamedLayer,
    alpha_from_metadata,
    named_layers,
    other_kind,
)
from fam_export.checkpoint.lora_layers import LoraLayer
from fam_export.checkpoint.modules import spellings
from fam_export.checkpoint.pickles import refuse_pickle
from fam_export.checkpoint.stored_tensor import TensorFile, open_tensor_file
from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

LoraLayers = Mapping[str, tuple[LoraLayer, ...]]

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers puts the settings of a training."""


def lora_layers(
    loras: Sequence[Lora], modules: Mapping[str, nn.Module]
) -> Mapping[str, LoraLayers]:
    """What `loras` add to the weights, by part and parameter, in their order.

    Args:
        loras: the files and their strengths.
        modules: the parts that a LoRA may change, without weights.

    Raises:
        CheckpointError: a file is no plain LoRA, or was made for another kind of model.
    """
    shapes = {
        part: {name: tuple(value.shape) for name, value in module.state_dict().items()}
        for part, module in modules.items()
    }
    found: dict[str, dict[str, tuple[LoraLayer, ...]]] = {part: {} for part in modules}
    for lora in loras:
        for (part, name), layer in _layers_of(lora, modules["unet"], shapes).items():
            found[part][name] = (*found[part].get(name, ()), layer)
    return found


def _layers_of(
    lora: Lora, unet: nn.Module, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> dict[tuple[str, str], LoraLayer]:
    refuse_pickle(lora.path)
    file = open_tensor_file(lora.path)
    kind = other_kind(file.tensors)
    if kind is not None:
        raise _refused(lora, f"is not a plain LoRA but {kind}", "merge it with the tool it is from")
    try:
        named = named_layers(file.tensors, unet)
    except (ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refused(lora, f"has names that are not understood ({got})") from error
    found, strangers = {}, []
    for (part, layer), values in named.items():
        parameter = _parameter(layer, shapes.get(part, {}))
        if parameter is None or not _fits(values, shapes[part][parameter]):
            strangers.append(f"{part}.{layer}")
            continue
        found[part, parameter] = _update(lora, values, _alpha(file, part, layer, values))
    if strangers or not found:
        example = f"; {min(strangers)} does not" if strangers else ""
        fitting = f"{len(found)} of its {len(named)} layers fit a weight{example}"
        raise _refused(lora, f"does not belong to this checkpoint: {fitting}")
    return found


def _parameter(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The name of the layer's weight; text encoders' have changed over the years."""
    return next((name for name in spellings(f"{layer}.weight") if name in shapes), None)


def _alpha(file: TensorFile, part: str, layer: str, values: NamedLayer) -> float | None:
    if values.alpha is not None:
        return values.alpha
    try:
        settings: Any = json.loads(file.metadata.get(METADATA_KEY, "null"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(settings, Mapping):
        return None
    return alpha_from_metadata(settings, part, layer, values.factors[DOWN].shape[0])


def _update(lora: Lora, values: NamedLayer, alpha: float | None) -> LoraLayer:
    down, up = values.factors[DOWN], values.factors[UP]
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    return LoraLayer(down, up, scale * lora.strength)


def _fits(values: NamedLayer, weight: tuple[int, ...]) -> bool:
    """Whether there are two factors whose product has the shape `weight`."""
    if set(values.factors) != {DOWN, UP}:
        return False
    down, up = values.factors[DOWN].shape, values.factors[UP].shape
    if len(down) != len(up) or len(down) < 2 or 0 in down:
        return False
    if down[0] != up[1] or set(up[2:]) - {1}:
        return False
    # Linear layers and 1 x 1 convolutions may stand for each other.
    trailing = (1,) * (4 - len(down))
    return (up[0], *down[1:], *trailing) == (*weight, *(1,) * (4 - len(weight)))


def _refused(
    lora: Lora, what: str, fix: str = "use a LoRA that was made for this kind of checkpoint"
) -> CheckpointError:
    return CheckpointError(
        f"the LoRA {lora.path} {what}",
        expected="a LoRA of kohya's, peft's or diffusers' kind for the checkpoint's model family",
        fix=fix,
    )
