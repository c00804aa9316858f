"""The checkpoint that ships with the project: small, whole, of the right shape, and good."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from fam_export.demo.evaluate import CHECKPOINT, fresh_prompts, sample_pictures, score
from fam_export.demo.package import MAX_CHECKPOINT_BYTES
from fam_export.demo.recognise import recognise
from fam_export.demo.scenes import render, sample_scene
from fam_export.demo.tokens import make_tokenizer
from fam_export.demo.train_vae import tensor_from_picture
from fam_export.demo.trained import balance_channels

TEXTS = (
    "a red triangle",
    "A Striped  RED star, on the left; it's 50% \N{LATIN SMALL LETTER U WITH DIAERESIS}ber",
    "\N{SNOWMAN} \N{CJK UNIFIED IDEOGRAPH-4E2D} zebra-crossing",
    "",
)
MIN_PSNR_DB = 30.0


@cache
def _vae() -> Any:
    return AutoencoderKL.from_pretrained(CHECKPOINT / "vae").to(torch.float32)


def test_it_is_small_and_made_of_safetensors_only() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_CHECKPOINT_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors", ".txt"}


def test_no_file_names_a_machine_path() -> None:
    for path in CHECKPOINT.rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text()), path


def test_up_block_0_has_self_attention_over_64_tokens() -> None:
    unet = UNet2DConditionModel.from_pretrained(CHECKPOINT / "unet").to(torch.float32)
    tokens: list[int] = []
    blocks = [m for n, m in unet.up_blocks[0].named_modules() if n.endswith("attn1")]
    for block in blocks:
        block.register_forward_hook(lambda _, inputs, __: tokens.append(inputs[0].shape[1]))
    with torch.no_grad():
        unet(torch.zeros(1, 4, 16, 16), 1, encoder_hidden_states=torch.zeros(1, 77, 128))
    assert tokens == [64] * len(blocks)
    assert len(blocks) >= 2


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_and_tokenizers_agree(text: str) -> None:
    folder = CHECKPOINT / "tokenizer"
    from_folder = CLIPTokenizer.from_pretrained(folder)(text).input_ids
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids == from_folder
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    rebuilt: Any = CLIPTokenizer(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]
    assert rebuilt(text).input_ids == from_folder


def test_the_vocabulary_is_what_the_script_learns() -> None:
    learnt = make_tokenizer().get_vocab()
    assert learnt == json.loads((CHECKPOINT / "tokenizer" / "vocab.json").read_text())
    assert learnt["<|endoftext|>"] == len(learnt) - 1


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_autoencoder_keeps_pictures_at_every_size(size: int) -> None:
    rng = np.random.default_rng(size)
    scenes = [sample_scene(rng) for _ in range(1024 // size)]
    pictures = np.stack([render(scene, size, size) for scene in scenes])
    with torch.no_grad():
        latent = _vae().encode(tensor_from_picture(pictures)).latent_dist.mean
        decoded = _vae().decode(latent).sample.clamp(-1.0, 1.0)
    error = (decoded - tensor_from_picture(pictures)).square().mean().item() / 4.0
    assert -10.0 * np.log10(error) >= MIN_PSNR_DB
    seen = ((decoded + 1.0) * 127.5).round().byte().movedim(1, -1).numpy()
    assert all(recognise(p).matches(s) for p, s in zip(seen, scenes, strict=True))


def test_latents_have_unit_deviation_after_scaling() -> None:
    rng = np.random.default_rng(1)
    pictures = np.stack([render(sample_scene(rng), 64, 64) for _ in range(128)])
    with torch.no_grad():
        latent = _vae().encode(tensor_from_picture(pictures)).latent_dist.mean
    scaled = latent * _vae().config.scaling_factor
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(4), atol=0.1, rtol=0.0)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.2, rtol=0.0)


def test_balancing_channels_changes_no_picture() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, mid_block_add_attention=False)
    vae.eval()
    picture = torch.rand(2, 3, 16, 16) * 2.0 - 1.0
    with torch.no_grad():
        before = vae.encode(picture).latent_dist.mean
        decoded = vae.decode(before).sample
        deviation = balance_channels(vae, before)
        after = vae.encode(picture).latent_dist.mean
        torch.testing.assert_close(vae.decode(after).sample, decoded, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.std(dim=(0, 2, 3)), torch.full((4,), deviation))


def test_native_pictures_follow_the_prompt() -> None:
    """A short form of the evaluation in the model card (200 prompts, at least 90 % right)."""
    prompts = fresh_prompts(16)
    pictures = sample_pictures(Path(CHECKPOINT), prompts, steps=20, guidance_scale=4.0, seed=0)
    assert pictures.shape == (16, 64, 64, 3)
    figures, _ = score(pictures, prompts)
    assert figures.right >= 13 / 16
