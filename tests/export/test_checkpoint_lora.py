"""LoRAs of every trainer's format: fused weights equal peft's, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from fam_export.checkpoint import Lora, lora_from_text, open_checkpoint
from fam_runtime.errors import CheckpointError, InvalidRequest
from tests.checkpoint_formats import add_half_precision, parts, write_single_file
from tests.checkpoints import KINDS, make_checkpoint
from tests.lora_formats import Format, write_lora

FORMATS: tuple[Format, ...] = get_args(Format)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp("lora") / request.param)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("sd15", tmp_path_factory.mktemp("lora") / "sd15")


def fused(folder: Path, loras: list[Lora]) -> dict[str, dict[str, torch.Tensor]]:
    """The weights after peft has merged the adapters, by part."""
    pipeline: Any = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    before = {part: getattr(pipeline, part).state_dict() for part in parts(folder)}
    before = {part: {k: v.clone() for k, v in state.items()} for part, state in before.items()}
    names = [f"adapter_{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        pipeline.load_lora_weights(str(lora.path), adapter_name=name)
    pipeline.set_adapters(names, [lora.strength for lora in loras])
    pipeline.fuse_lora(adapter_names=names)
    pipeline.unload_lora_weights()
    after = {part: getattr(pipeline, part).state_dict() for part in parts(folder)}
    for part in parts(folder):
        if part != "vae":
            assert any(not torch.equal(after[part][k], before[part][k]) for k in before[part])
    return after


def assert_fused(folder: Path, model: Path, loras: list[Lora], **options: Any) -> None:
    checkpoint = open_checkpoint(model, loras=loras, **options)
    for part, state in fused(folder, loras).items():
        weights = checkpoint.weights(part)
        assert list(weights) == list(state)
        for name, tensor in state.items():
            assert torch.equal(weights[name], tensor), f"{part}.{name}"


@pytest.mark.parametrize("form", FORMATS)
def test_each_format(folder: Path, tmp_path: Path, form: Format) -> None:
    path = write_lora(folder, tmp_path / "style.safetensors", form)
    assert_fused(folder, folder, [Lora(path, 0.7)])


def test_several_on_a_single_file(folder: Path, tmp_path: Path) -> None:
    one = write_single_file(folder, tmp_path / "one.safetensors")
    loras = [
        Lora(write_lora(folder, tmp_path / "a.safetensors", "kohya", seed=1), 0.5),
        Lora(write_lora(folder, tmp_path / "b.safetensors", "peft", seed=2, rank=3), -0.25),
        Lora(write_lora(folder, tmp_path / "c.safetensors", "diffusers", seed=3), 1.5),
    ]
    assert_fused(folder, one, loras, config=folder)


def test_half_precision_is_rounded_once(sd15: Path, tmp_path: Path) -> None:
    """After all adapters, not after each."""
    folder = make_checkpoint("sd15", tmp_path / "half")
    add_half_precision(folder)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    stem = f"lora_unet_{name.replace('.', '_')}"
    expected = open_checkpoint(folder, prefer="fp16").weights("unet")[f"{name}.weight"].float()
    loras = []
    for seed, strength in enumerate((0.8, -0.3)):
        path = write_lora(sd15, tmp_path / f"{seed}.safetensors", "kohya", seed=seed)
        loras.append(Lora(path, strength))
        factors = load_file(path)
        down, up = factors[f"{stem}.lora_down.weight"], factors[f"{stem}.lora_up.weight"]
        expected = expected + up @ down * (2 / 4 * strength)
    got = open_checkpoint(folder, prefer="fp16", loras=loras).weights("unet")
    assert got.stored_dtype(f"{name}.weight") == torch.float16
    assert torch.equal(got[f"{name}.weight"], expected.half())


def test_every_layer_has_its_own_alpha(sd15: Path, tmp_path: Path) -> None:
    """As kohya's trainer means it; diffusers takes the commonest alpha for all."""
    path = write_lora(sd15, tmp_path / "style.safetensors", "kohya")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    stem = f"lora_unet_{name.replace('.', '_')}"
    state = load_file(path)
    state[f"{stem}.alpha"] = torch.tensor(12.0)
    save_file(state, path)
    down, up = state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"]
    plain = open_checkpoint(sd15).weights("unet")[f"{name}.weight"]
    got = open_checkpoint(sd15, loras=[Lora(path)]).weights("unet")[f"{name}.weight"]
    torch.testing.assert_close(got, plain + 12 / 4 * up @ down, rtol=0, atol=1e-6)


def test_strength_0_leaves_it_out(sd15: Path, tmp_path: Path) -> None:
    path = write_lora(sd15, tmp_path / "style.safetensors", "kohya")
    plain, none = open_checkpoint(sd15), open_checkpoint(sd15, loras=[Lora(path, 0)])
    assert none.loras == () and none.fingerprint() == plain.fingerprint()
    strengths = [open_checkpoint(sd15, loras=[Lora(path, s)]).fingerprint() for s in (0.5, 0.6)]
    assert len({plain.fingerprint(), *strengths}) == 3


def refused(model: Path, path: Path) -> str:
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(model, loras=[Lora(path)])
    return str(refusal.value)


def test_lora_of_another_family(sd15: Path, tmp_path: Path) -> None:
    sdxl = make_checkpoint("sdxl", tmp_path / "sdxl")
    path = write_lora(sdxl, tmp_path / "xl.safetensors", "kohya")
    message = refused(sd15, path)
    assert re.search(r"(\d+) of its (\d+) layers fit a weight; \w+\.\S+ does not", message)
    sd21 = make_checkpoint("sd21v", tmp_path / "sd21v")  # whose layers differ in shape alone
    path = write_lora(sd21, tmp_path / "sd2.safetensors", "peft")
    assert "does not belong to this checkpoint" in refused(sd15, path)


@pytest.mark.parametrize(
    ("key", "kind"),
    [("dora_scale", "DoRA"), ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("diff", "full diff")],
)
def test_other_adapters_are_named(sd15: Path, tmp_path: Path, key: str, kind: str) -> None:
    path = write_lora(sd15, tmp_path / "style.safetensors", "kohya")
    stem = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file({**load_file(path), f"{stem}.{key}": torch.zeros(1)}, path)
    assert f"is not a plain LoRA but {kind}" in refused(sd15, path)


def test_what_is_no_lora(sd15: Path, tmp_path: Path) -> None:
    assert "the file is missing" in refused(sd15, tmp_path / "missing.safetensors")
    pickle = tmp_path / "style.pt"
    pickle.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "is a pickle" in refused(sd15, pickle)
    save_file({"something": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    assert "does not belong" in refused(sd15, tmp_path / "other.safetensors")


def test_text_of_a_lora() -> None:
    assert lora_from_text("style.safetensors") == Lora(Path("style.safetensors"), 1.0)
    assert lora_from_text("a/style.safetensors:0.8") == Lora(Path("a/style.safetensors"), 0.8)
    assert lora_from_text("od:d.safetensors") == Lora(Path("od:d.safetensors"), 1.0)
    assert lora_from_text("od:d.safetensors:-1") == Lora(Path("od:d.safetensors"), -1.0)
    for text in ("style.safetensors:much", ":0.8", "", "style.safetensors:nan"):
        with pytest.raises(InvalidRequest, match="does not name a LoRA"):
            lora_from_text(text)
