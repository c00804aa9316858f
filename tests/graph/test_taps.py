"""Which layers AM acts on, and how many tokens they have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fam_graph.reference.components import ReferenceComponents
from fam_graph.taps import (
    UnknownTapLayer,
    default_tap_layers,
    latent_multiple,
    resolve_tap_layers,
    self_attention_layers,
    token_grid,
)
from tests.checkpoints import Kind

EXPECTED = {"sd15": ("up_blocks.1", 2), "sd21v": ("up_blocks.1", 2), "sdxl": ("up_blocks.0", 4)}


def test_default_is_the_first_up_block_with_attention(
    components: ReferenceComponents, kind: Kind
) -> None:
    block, count = EXPECTED[kind]
    layers = default_tap_layers(components.unet)
    assert len(layers) == count
    assert all(layer.startswith(f"{block}.") and layer.endswith(".attn1") for layer in layers)
    assert resolve_tap_layers(components.unet, None) == layers
    assert resolve_tap_layers(components.unet, [block]) == layers


def test_unknown_layer_is_refused_with_the_known_ones(components: ReferenceComponents) -> None:
    with pytest.raises(UnknownTapLayer, match=r"unknown tap layer 'up_blocks.9'; .*up_blocks\.1"):
        resolve_tap_layers(components.unet, ["up_blocks.9"])


def test_token_grids_are_what_the_layers_see(components: ReferenceComponents, kind: Kind) -> None:
    unet, latent = components.unet, (16, 24)
    seen: dict[str, int] = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(_: object, args: tuple[torch.Tensor], __: object) -> None:
            seen[layer] = args[0].shape[1]

        return hook

    layers = self_attention_layers(unet)
    hooks = [unet.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    conditions = components.conditions(["the cat"], None, False, latent)
    unet(
        torch.randn(1, 4, *latent), 500, conditions.prompt_embeds,
        added_cond_kwargs=conditions.added,
    )  # fmt: skip
    for hook in hooks:
        hook.remove()
    assert seen == {
        layer: rows * columns
        for layer in layers
        for rows, columns in [token_grid(layer, unet, latent)]
    }
    assert latent_multiple(unet) == (4 if kind == "sdxl" else 8)
