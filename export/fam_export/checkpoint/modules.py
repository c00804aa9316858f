"""The parts of a checkpoint as modules of diffusers and transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fam_export.checkpoint.stored_tensor import StoredTensor
from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

DEPRECATED_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
"""Names of a VAE's attention in files that are older than diffusers 0.15."""

_DEPRECATED = re.compile(rf"(.*attentions\.\d+)\.({'|'.join(DEPRECATED_ATTENTION)})\.(\w+)")

USE_MATCHING_CONFIGURATION = (
    "use the configuration that belongs to the weights (a single file of another architecture than "
    "SD 1.5, 2.1 or XL has to be given one)"
)


def empty_module(part: str, config: Mapping[str, Any], where: str) -> nn.Module:
    """The module of `part` with its parameters on the meta device, buffers on the CPU.

    Raises:
        CheckpointError: no module can be made from `config`.
    """
    try:
        with _parameters_on_meta():
            return _build(part, dict(config))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{where}: no module can be made from the configuration of {part}",
            got=_first_line(error),
            fix="download the checkpoint again",
        ) from error


def parameters_of(
    module: nn.Module, stored: Mapping[str, StoredTensor], where: str
) -> dict[str, StoredTensor]:
    """What is stored for every parameter of `module`, in its order.

    Names are matched as ``from_pretrained`` does; tensors that the module has no place for are
    left out (text encoders of older checkpoints hold ``position_ids``).

    Raises:
        CheckpointError: a parameter is missing or has another shape.
    """
    by_current_name = {_current_name(name): tensor for name, tensor in stored.items()}
    expected = module.state_dict()
    found = {}
    for name in expected:
        for candidate in spellings(name):
            if candidate in by_current_name:
                found[name] = by_current_name[candidate]
                break
    missing = [name for name in expected if name not in found]
    if missing:
        raise CheckpointError(
            f"{where}: {len(missing)} of {len(expected)} weights are missing",
            got=f"no {missing[0]}",
            fix=USE_MATCHING_CONFIGURATION,
        )
    for name, tensor in found.items():
        if tensor.shape != tuple(expected[name].shape):
            raise CheckpointError(
                f"{where}: {name} has another shape than its configuration says",
                got=list(tensor.shape),
                expected=str(list(expected[name].shape)),
                fix=USE_MATCHING_CONFIGURATION,
            )
    return found


def fill(module: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> nn.Module:
    """Put `weights` in `module`, in `dtype`; it comes back ready for inference.

    Tensors that have the dtype already are not copied.
    """
    state = {name: weights[name].to(dtype) for name in weights}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _build(part: str, config: dict[str, Any]) -> nn.Module:
    if part == "unet":
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_config(config)
    if part == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL.from_config(config)
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    make = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
    return make(CLIPTextConfig.from_dict(config))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules that are made inside get parameters without memory; buffers keep their values.

    torch.device("meta") would lose the buffers that no checkpoint stores.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Iterable[type],
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            if func is torch.empty:  # what the layers of torch.nn make their weights with
                return func(*args, **{**(kwargs or {}), "device": "meta"})
            return func(*args, **(kwargs or {}))

    with EmptyOnMeta():
        yield


def _current_name(name: str) -> str:
    match = _DEPRECATED.fullmatch(name)
    return f"{match[1]}.{DEPRECATED_ATTENTION[match[2]]}.{match[3]}" if match else name


def spellings(name: str) -> tuple[str, ...]:
    """`name`, and the names that the versions of transformers have had for it."""
    return (name, f"text_model.{name}", name.removeprefix("text_model."))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
