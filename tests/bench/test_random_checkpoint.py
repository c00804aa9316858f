"""Random checkpoints, as diffusers and the exporter read them: the same weights in every format."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from fam_bench.random_checkpoint import RandomCheckpoint
from fam_bench.random_tensors import PIECE_ELEMENTS, random_pieces
from fam_bench.safetensors_writer import StreamedTensor, write_safetensors
from fam_export.checkpoint import Lora, open_checkpoint
from tests.checkpoints import KINDS, Kind, make_checkpoint

CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def config(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(kind, tmp_path_factory.mktemp(kind) / "tiny")


def test_every_format_holds_the_same_weights(config: Path, tmp_path: Path) -> None:
    checkpoint = RandomCheckpoint.of(config, seed=7)
    full = checkpoint.write("folder", tmp_path / "full")
    half = open_checkpoint(checkpoint.write("folder-fp16", tmp_path / "half"))
    single = checkpoint.write("single-file", tmp_path / "single.safetensors")
    single_file = open_checkpoint(single, config=config)
    for part in half.parts:
        others = (half.weights(part), single_file.weights(part))
        loaded = CLASSES[part].from_pretrained(full / part).state_dict()
        again = (
            CLASSES[part]
            .from_pretrained(tmp_path / "half" / part, variant="fp16", dtype=torch.float32)
            .state_dict()
        )
        assert set(others[0]) == set(loaded)
        for name, values in loaded.items():
            assert values.dtype == torch.float32
            assert torch.equal(values, again[name]), (part, name)
            for other in others:
                stored = other[name]
                assert stored.dtype == torch.float16
                assert torch.equal(values, stored.float()), (part, name)


def test_the_lora_reaches_every_attention_projection_of_the_unet(
    kind: Kind, config: Path, tmp_path: Path
) -> None:
    checkpoint = RandomCheckpoint.of(config)
    folder = checkpoint.write("folder-fp16", tmp_path / "half")
    lora = Lora(checkpoint.write_lora(tmp_path / "lora.safetensors"))
    plain = open_checkpoint(folder).weights("unet")
    changed = open_checkpoint(folder, loras=[lora]).weights("unet")
    side = "down_blocks" if kind != "sdxl" else "input_blocks"  # as trainers name them
    assert any(key.startswith(f"lora_unet_{side}_") for key in load_file(lora.path))
    differ = {name for name in plain if not torch.equal(plain[name], changed[name])}
    projections = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    assert differ == {name for name in plain if ".attn" in name and name.endswith(projections)}


def test_a_latent_passes_the_unet_at_about_its_size(config: Path, tmp_path: Path) -> None:
    checkpoint = RandomCheckpoint.of(config)
    root = checkpoint.write("folder", tmp_path / "full")
    unet = UNet2DConditionModel.from_pretrained(root / "unet")
    latent, text = torch.randn(1, 4, 16, 16), torch.randn(1, 77, unet.config.cross_attention_dim)
    time_ids = torch.full((1, 6), 128.0)
    pooled = {"text_embeds": torch.randn(1, 24), "time_ids": time_ids}
    with torch.no_grad():
        output = unet(latent, 500, text, added_cond_kwargs=pooled).sample
        silent = unet(latent, 500, 0 * text, added_cond_kwargs=pooled).sample
    assert 0.3 < output.std() < 2
    assert (output - silent).abs().max() > 0.01 * output.std()


def test_a_large_tensor_comes_in_pieces_and_other_names_give_other_values() -> None:
    shape = (PIECE_ELEMENTS // 4 + 1, 5)
    pieces = list(random_pieces(0, "unet", "a.weight", shape))
    assert len(pieces) == 2 and sum(piece.size for piece in pieces) == prod(shape)
    first = pieces[0][:8]
    for seed, part, name in ((1, "unet", "a.weight"), (0, "vae", "a.weight"), (0, "unet", "b")):
        assert not np.array_equal(next(random_pieces(seed, part, name, shape))[:8], first)


def test_the_writer_refuses_a_tensor_of_another_size_and_leaves_nothing(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float16)
    good = StreamedTensor("a", (2, 3), "float16", lambda: iter([values[:4], values[4:]]))
    write_safetensors(tmp_path / "good", [good])
    assert load_file(tmp_path / "good")["a"].tolist() == values.reshape(2, 3).tolist()
    bad = StreamedTensor("a", (2, 4), "float16", lambda: iter([values]))
    with pytest.raises(ValueError, match="a: 12 bytes, announced 16"):
        write_safetensors(tmp_path / "bad", [bad])
    assert [file.name for file in tmp_path.iterdir()] == ["good"]
