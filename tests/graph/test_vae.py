"""The VAE's halves against diffusers, and their export."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.export import Dim, export

from fam_graph.reference.components import ReferenceComponents
from fam_graph.vae import LatentScaling, VaeDecoder, VaeEncoder, vae_scale_factor
from tests.checkpoints import Kind
from tests.graph.tolerances import LATENT_OF_VAE, largest_difference

MAX_BATCH = 63
"""diffusers' Upsample2D takes another path from 64 pictures on, so an export is bounded there."""


@pytest.fixture
def kind() -> Kind:
    """One kind is enough: the VAEs of the three differ by a factor."""
    return "sdxl"


def test_scale_factor(components: ReferenceComponents) -> None:
    assert vae_scale_factor(components.vae) == 8


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_halves_are_those_of_diffusers(
    components: ReferenceComponents, size: tuple[int, int]
) -> None:
    latent = torch.randn(2, 4, *size)
    assert isinstance(next(iter(components.vae.attn_processors.values())), AttnProcessor2_0)
    image = components.decode(latent)
    encoded = components.encode(image)
    decoder, encoder = VaeDecoder(components.vae), VaeEncoder(components.vae)
    assert not isinstance(next(iter(components.vae.attn_processors.values())), AttnProcessor2_0)
    assert largest_difference(decoder(latent), image) < LATENT_OF_VAE
    assert largest_difference(encoder(image), encoded) < LATENT_OF_VAE


def test_mid_block_attention_matters(components: ReferenceComponents) -> None:
    latent = torch.randn(1, 4, 4, 4)
    image = components.decode(latent)
    attention = components.vae.decoder.mid_block.attentions[0]
    weight = attention.to_v.weight.clone()
    attention.to_v.weight.data.zero_()
    changed = components.decode(latent)
    attention.to_v.weight.data.copy_(weight)
    assert largest_difference(changed, image) > 100 * LATENT_OF_VAE


def test_latent_statistics_are_applied(components: ReferenceComponents) -> None:
    vae = components.vae
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 1.5]
    before = dict(vae.config)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    scaling = LatentScaling(vae)
    vae.register_to_config(latents_mean=None, latents_std=None)
    assert dict(vae.config) == before
    latent = torch.randn(1, 4, 2, 2)
    mean_, std_ = (torch.tensor(values).reshape(1, 4, 1, 1) for values in (mean, std))
    expected = latent * std_ / vae.config["scaling_factor"] + mean_
    assert largest_difference(scaling.unscale(latent), expected) < LATENT_OF_VAE
    assert largest_difference(scaling.apply_scale(expected), latent) < LATENT_OF_VAE


def test_decoder_exports_with_dynamic_batch_and_size(components: ReferenceComponents) -> None:
    decoder = VaeDecoder(components.vae).eval()
    shapes = ({0: Dim("B", max=MAX_BATCH), 2: Dim("h"), 3: Dim("w")},)
    program = export(
        decoder, (torch.randn(2, 4, 4, 8),), dynamic_shapes=shapes, strict=False
    ).module()
    for shape in ((1, 4, 6, 4), (3, 4, 4, 5)):
        latent = torch.randn(*shape)
        assert largest_difference(program(latent), decoder(latent)) < LATENT_OF_VAE


def test_encoder_exports_with_dynamic_batch_and_size(components: ReferenceComponents) -> None:
    encoder = VaeEncoder(components.vae).eval()
    shapes = ({0: Dim("B"), 2: 8 * Dim("h"), 3: 8 * Dim("w")},)
    program = export(
        encoder, (torch.randn(2, 3, 32, 64),), dynamic_shapes=shapes, strict=False
    ).module()
    for shape in ((1, 3, 48, 32), (3, 3, 32, 40)):
        image = torch.randn(*shape)
        assert largest_difference(program(image), encoder(image)) < LATENT_OF_VAE
