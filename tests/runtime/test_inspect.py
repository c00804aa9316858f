"""`fam-inspect`: what it says of whole and of damaged bundles, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import shutil

import onnx
import pytest
from onnx.external_data_helper import set_external_data

from fam_runtime.bundle import LoraInfo, Manifest
from fam_runtime.cli.inspect import main
from fam_runtime.cli.inspect_report import bytes_text, table
from fam_runtime.native_attention import stored_bytes, tap_specs
from tests.runtime.fake_bundle import refresh_manifest, write_bundle

CHECK = {"max_relative_error": 2e-6, "tolerance": 1e-4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two graphs share a tensor of 8 bytes; one check is over its tolerance."""
    root = write_bundle(tmp_path_factory.mktemp("bundles") / "whole")
    (root / "unet/weights.bin").write_bytes(bytes(8))
    (root / "unet/weights.json").write_text("{}\n")
    for name in ("unet/native.onnx", "unet/target-128x128.onnx"):
        model = onnx.load(root / name)
        tensor = next(t for t in model.graph.initializer if len(t.raw_data) == 8)
        set_external_data(tensor, "weights.bin", 0, 8)
        tensor.ClearField("raw_data")
        (root / name).write_bytes(model.SerializeToString())
    refresh_manifest(root)
    manifest = Manifest.from_bytes((root / "manifest.json").read_bytes())
    graphs = {name: dataclasses.replace(g, check=CHECK) for name, g in manifest.graphs.items()}
    over = dataclasses.replace(graphs["vae_decoder/model.onnx"], check={**CHECK, "tolerance": 1e-9})
    graphs["vae_decoder/model.onnx"] = over
    odd = {"max_relative_error": "none", "tolerance": True}
    encoder = graphs["vae_encoder/model.onnx"]
    graphs["vae_encoder/model.onnx"] = dataclasses.replace(encoder, check=odd)
    changed = dataclasses.replace(manifest, graphs=graphs)
    (root / "manifest.json").write_bytes(changed.to_bytes())
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def document(root, capsys, *options, status=0):
    assert main([str(root), "--json", *options]) == status
    return json.loads(capsys.readouterr().out)


def test_says_what_is_in_it(whole, capsys):
    assert main([str(whole)]) == 0
    said, errors = capsys.readouterr()
    assert errors == ""
    for line in (
        "intact      yes: ",
        "hashes agree",
        "native size  64x64, latent 4x8x8",
        "defaults     ddim, 4 steps, guidance scale 7.5, AM strength 0.7",
        "FM           cutoff from the target size, constant 0.5, inside the box rho",
        "upsampler    bicubic in latent space",
        "8 B of UNet weights serve 2 graphs; apart they would take 16 B",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn1  8x8         2         4",
        "taps: queries and keys of 1 layers",
    ):
        assert line in said
    lines = said.splitlines()
    target = next(line for line in lines if line.startswith("  128x256"))
    assert target.split()[:3] == ["128x256", "2x4", "4x16x32"]
    decoder = next(line for line in lines if "vae_decoder/model.onnx" in line)
    assert decoder.endswith("2.0e-06    1.0e-09  OVER")
    encoder = next(line for line in lines if "vae_encoder/model.onnx" in line)
    assert encoder.split()[-2:] == ["-", "-"]
    assert all(line == line.rstrip() for line in lines)


def test_json_adds_up(whole, capsys):
    said = document(whole, capsys)
    manifest = Manifest.from_bytes((whole / "manifest.json").read_bytes())
    assert said["intact"] is True and said["damage"] == {} and said["verified"] == "contents"
    assert said["bytes"] == sum(said["parts"].values())
    assert said["model"]["name"] == "fake"
    target = said["targets"][0]
    assert target["weights_bytes"] - target["weights_bytes_low_memory"] == 8
    need = target["native_attention"]
    specs = tap_specs(manifest, manifest.targets[0].step)
    assert need["stored_bytes"] == stored_bytes(specs, {"B": 1}, 4) == 4 * 2 * 2 * 64 * 4 * 4
    assert need["replayed_bytes_per_step"] == 4 * 8 * 8 * 4
    graphs = {graph["file"]: graph for graph in said["graphs"]}
    assert graphs["unet/native.onnx"]["shared_bytes"] == 8
    assert graphs["unet/upsample-128x128.onnx"]["shared_bytes"] == 0


def test_one_damaged_file(root, capsys):
    path = root / "unet/native.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert main([str(root)]) == 3
    said, errors = capsys.readouterr()
    assert "intact      NO: 1 of " in said
    assert errors.count("\n") == 1
    assert errors.startswith("fam-inspect: error: unet/native.onnx of the bundle has another")
    assert "get the bundle again or export it again with fam-export" in errors
    assert main([str(root), "--no-verify"]) == 0
    assert "sizes agree, nothing hashed" in capsys.readouterr().out


def test_several_damaged_files(root, capsys):
    (root / "unet/native.onnx").unlink()
    (root / "vae_decoder/model.onnx").write_bytes(b"")
    said = document(root, capsys, "--no-verify", status=3)
    assert said["intact"] is False
    assert sorted(said["damage"]) == ["unet/native.onnx", "vae_decoder/model.onnx"]
    assert "missing" in said["damage"]["unet/native.onnx"]
    assert said["targets"][0]["weights_bytes"] is None
    assert main([str(root), "--no-verify"]) == 3
    said, errors = capsys.readouterr()
    assert "2 of 13 files of the bundle are damaged | got 'unet/native.onnx, vae_dec" in errors
    assert "?" in next(line for line in said.splitlines() if line.startswith("  128x128"))


def test_no_bundle(tmp_path, capsys):
    assert main([str(tmp_path)]) == 3
    said, errors = capsys.readouterr()
    assert said == "" and "is not a bundle" in errors and "fam-export" in errors


def test_a_bundle_without_targets(root, capsys):
    manifest = Manifest.from_bytes((root / "manifest.json").read_bytes())
    (root / "manifest.json").write_bytes(dataclasses.replace(manifest, targets=()).to_bytes())
    assert main([str(root), "--no-verify"]) == 0
    command = f"fam-export --model PATH_TO_fake --scale 2 --output {root}"
    assert f"none: add one with {command}" in capsys.readouterr().out


def test_units():
    texts = [bytes_text(n) for n in (0, 999, 1000, 26_399_232, 5_000_000_000, None)]
    assert texts == ["0 B", "999 B", "1.0 kB", "26.4 MB", "5.0 GB", "?"]


def test_table_aligns():
    assert table([("a", "1"), ("long", "200")], right=(1,)) == "  a       1\n  long  200"


def test_distilled_checkpoints_loras_and_bf16(tmp_path, capsys):
    root = write_bundle(tmp_path / "lcm", guidance=False, guidance_embedding=True, dtype="bf16")
    manifest = Manifest.from_bytes((root / "manifest.json").read_bytes())
    loras = (LoraInfo("style", "ab" * 32, 0.75), LoraInfo("speed", "cd" * 32, 1))
    changed = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, loras=loras))
    (root / "manifest.json").write_bytes(changed.to_bytes())
    assert main([str(root)]) == 0
    said = capsys.readouterr().out
    for line in (
        "weights      bf16 (the onnxruntime backend cannot run it)",
        "LoRA         style, strength 0.75, SHA-256 abababababab",
        "LoRA         speed, strength 1, SHA-256 cdcdcdcdcdcd",
        "guidance     as a condition of the UNet: one pass a step, no negative prompt",
    ):
        assert line in said
    model = document(root, capsys)["model"]
    assert model["guidance_embedding"] is True and model["loras"][0]["name"] == "style"
