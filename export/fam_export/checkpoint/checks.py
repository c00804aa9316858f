"""What a configuration must say for FAM Diffusion to be possible with it."""

from __future__ import annotations

from fam_export.checkpoint.configuration import Configuration
from fam_runtime.errors import CheckpointError

PROMPT_TOKENS = 77
"""Length of a CLIP prompt."""


def check_configuration(configuration: Configuration, where: str) -> None:
    """Compare the configurations with what the method and the export are made for.

    Raises:
        CheckpointError: a part is of an unsupported kind.
    """
    _check_unet(configuration, where)
    _check_sizes(configuration, where)


def _check_unet(configuration: Configuration, where: str) -> None:
    config = configuration.read("unet")
    unsupported = {
        "in_channels": (config.get("in_channels"), 4),
        "class_embed_type": (config.get("class_embed_type"), None),
        "encoder_hid_dim_type": (config.get("encoder_hid_dim_type"), None),
    }
    for key, (got, expected) in unsupported.items():
        if got != expected:
            raise CheckpointError(
                f"{where}, unet: {key} is not supported",
                got=got,
                expected=str(expected),
                fix="use a text-to-image checkpoint without further conditions",
            )


def _check_sizes(configuration: Configuration, where: str) -> None:
    """Keys of the configurations that the export computes with."""
    vae, unet = configuration.read("vae"), configuration.read("unet")
    required: dict[str, tuple[object, type | tuple[type, ...]]] = {
        "vae/latent_channels": (vae.get("latent_channels"), int),
        "vae/scaling_factor": (vae.get("scaling_factor"), (int, float)),
        "vae/block_out_channels": (vae.get("block_out_channels"), list),
        "unet/sample_size": (unet.get("sample_size"), (int, list)),
        "unet/cross_attention_dim": (unet.get("cross_attention_dim"), int),
    }
    for key, (got, kind) in required.items():
        if not isinstance(got, kind):
            part, name = key.split("/")
            raise CheckpointError(
                f"{where}, {part}: {name} is not usable",
                got=got,
                fix="use the configuration that belongs to the weights",
            )
    tokens = [
        configuration.read(part)["max_position_embeddings"]
        for part in configuration.parts
        if part.startswith("text_encoder")
    ]
    if vae["latent_channels"] != 4 or any(count != PROMPT_TOKENS for count in tokens):
        raise CheckpointError(
            f"{where}: the checkpoint's shapes are not those of Stable Diffusion",
            got=f"{vae['latent_channels']} latent channels, {tokens} tokens",
            expected=f"4 latent channels, {PROMPT_TOKENS} tokens",
            fix="use a Stable Diffusion 1.x, 2.x or XL checkpoint",
        )
