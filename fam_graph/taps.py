"""Which self-attention layers hand their native attention to the target stage."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import UNet2DConditionModel

from fam_graph.attention_modulation import Grid

SELF_ATTENTION_SUFFIX = ".attn1"


class UnknownTapLayer(ValueError):
    """A tap layer was asked for that the UNet does not have, or that is no self-attention."""

    def __init__(self, layer: str, available: Sequence[str]) -> None:
        self.layer, self.available = layer, tuple(available)
        known = ", ".join(available)
        super().__init__(f"unknown tap layer {layer!r}; self-attention layers: {known}")


def self_attention_layers(unet: UNet2DConditionModel) -> tuple[str, ...]:
    """Names of all self-attention layers, in the order of the UNet's modules."""
    names = (name.removesuffix(".processor") for name in unet.attn_processors)
    return tuple(name for name in names if name.endswith(SELF_ATTENTION_SUFFIX))


def default_tap_layers(unet: UNet2DConditionModel) -> tuple[str, ...]:
    """All self-attention layers of the first up-block that has attention.

    The paper modulates `up_block_0`. SDXL has attention there; SD 1.5 and 2.1, which the paper
    reports too, do not. We take the first up-block with attention (their ``up_blocks.1``).

    Raises:
        ValueError: no up-block has self-attention.
    """
    layers = self_attention_layers(unet)
    for index in range(len(unet.up_blocks)):
        chosen = tuple(name for name in layers if name.startswith(f"up_blocks.{index}."))
        if chosen:
            return chosen
    raise ValueError("the UNet has no self-attention in its up-blocks: AM has no layer to act on")


def resolve_tap_layers(
    unet: UNet2DConditionModel, requested: Sequence[str] | None
) -> tuple[str, ...]:
    """Expand `requested` (layer names or prefixes such as ``up_blocks.0``); None is the default.

    Raises:
        UnknownTapLayer: a name or prefix matches no self-attention layer.
    """
    if requested is None:
        return default_tap_layers(unet)
    layers = self_attention_layers(unet)
    chosen: set[str] = set()
    for name in requested:
        matches = [layer for layer in layers if layer == name or layer.startswith(f"{name}.")]
        if not matches:
            raise UnknownTapLayer(name, layers)
        chosen.update(matches)
    return tuple(layer for layer in layers if layer in chosen)


def downsampling_of(layer: str, unet: UNet2DConditionModel) -> int:
    """How many latent samples one token of `layer` spans along an axis.

    Every down-block but the last halves the grid, every up-block but the last doubles it.
    """
    levels = len(unet.config["block_out_channels"])
    kind, *rest = layer.split(".")
    if kind == "mid_block":
        depth = levels - 1
    else:
        index = int(rest[0])
        depth = index if kind == "down_blocks" else levels - 1 - index
    return 1 << depth


def token_grid(layer: str, unet: UNet2DConditionModel, latent: Grid) -> Grid:
    """The token grid of `layer` for a latent of ``latent = (height, width)`` samples."""
    factor = downsampling_of(layer, unet)
    return latent[0] // factor, latent[1] // factor


def latent_multiple(unet: UNet2DConditionModel) -> int:
    """Latent sizes must be multiples of this for the UNet to run without uneven resizing."""
    return 1 << (len(unet.config["block_out_channels"]) - 1)
