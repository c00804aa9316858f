"""`fam-generate`: pictures, their names and settings, and errors on one line."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from fam_runtime.bundle import Bundle
from fam_runtime.cli.generate import main
from fam_runtime.cli.sizes import bytes_from_text, scale_from_text, size_from_text
from fam_runtime.picture import save_png, settings_from_png
from tests.runtime.fake_bundle import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "sd")


@pytest.fixture
def generate(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return main([str(bundle), *arguments])

    return run


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_writes_a_picture_and_says_where(generate, tmp_path, capsys):
    assert generate("a red ring", "--scale", "2", "--seed", "3") == 0
    said = capsys.readouterr().out
    assert "out.png  128x128  seed 3  method fam" in said
    assert "native" in said
    assert " s" in said
    assert pixels(tmp_path / "out.png").shape == (128, 128, 3)


def test_quiet_says_nothing(generate, capsys):
    assert generate("a red ring", "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_options_reach_the_settings(generate, tmp_path):
    arguments = "--size 128x256 --steps 3 --guidance-scale 3 --seed 8 --scheduler euler-a"
    arguments += " --method am --am-strength 0.5 --noise torch-cuda --negative-prompt blur"
    assert generate("a red ring", *arguments.split(), "-o", "x.png") == 0
    settings = settings_from_png(tmp_path / "x.png")
    expected = {
        "height": 128,
        "width": 256,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "seed": 8,
        "scheduler": "euler-a",
        "method": "am",
        "am_strength": 0.5,
        "noise": "torch-cuda",
        "negative_prompt": "blur",
        "prompt": "a red ring",
    }
    assert {key: settings[key] for key in expected} == expected
    assert settings["made_with"]["backend"] == "onnxruntime"


def test_settings_in_a_picture_make_it_again(generate, tmp_path):
    assert generate("a red ring", "--scheduler", "euler-a", "-o", "first.png") == 0
    assert generate("--from-png", "first.png", "-o", "again.png") == 0
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_options_override_a_picture(generate, tmp_path):
    assert generate("a red ring", "--seed", "1", "-o", "first.png") == 0
    arguments = ("--seed", "2", "--method", "swapping", "--scale", "2x4")
    assert generate("--from-png", "first.png", *arguments, "-o", "other.png") == 0
    settings = settings_from_png(tmp_path / "other.png")
    assert (settings["seed"], settings["method"], settings["am_strength"]) == (2, "swapping", 1.0)
    assert (settings["height"], settings["width"]) == (128, 256)
    assert settings["prompt"] == "a red ring"


def test_another_bundle_is_warned_about(generate, tmp_path, capsys):
    other = write_bundle(tmp_path / "other", guidance=False)
    assert generate("a red ring", "--guidance-scale", "1", "-o", "first.png") == 0
    assert main([str(other), "--from-png", "first.png", "-o", "x.png"]) == 0
    assert "warning: first.png was made with another bundle" in capsys.readouterr().err


def test_several_pictures_have_numbers_and_each_its_seed(generate, tmp_path):
    assert generate("a red ring", "--num-images", "3", "--seed", "5", "-o", "many.png") == 0
    for index in range(3):
        assert settings_from_png(tmp_path / f"many-{index + 1}.png")["seed"] == 5 + index
    assert generate("--from-png", "many-3.png", "-o", "one.png") == 0
    assert np.array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "many-3.png"))


def test_a_memory_budget_is_kept_or_refused_in_one_line(generate, capsys):
    assert generate("a red ring", "--memory-budget", "100G") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"memory within 102400M: weights packed; at most text \d+M, native \d+M, upsample \d+M, "
        r"target \d+M, decode \d+M",
        line,
    )
    assert generate("a red ring", "--memory-budget", "1M") == 2
    message = one_line(capsys, "fam-generate: error: ")
    needed = re.search(r"--memory-budget (\d+M)", message)[1]
    assert f"got '1M' | expected at least {needed} (text " in message


def test_lcm(generate, tmp_path):
    assert generate("a red ring", "--scheduler", "lcm", "--steps", "2", "--seed", "1") == 0
    assert settings_from_png(tmp_path / "out.png")["scheduler"] == "lcm"


def test_native_picture(generate, tmp_path):
    assert generate("a red ring", "--save-native") == 0
    assert pixels(tmp_path / "out-native.png").shape == (64, 64, 3)


def test_how_it_is_made_changes_nothing(generate, tmp_path):
    pictures = []
    for options in ([], ["--native-attention", "replay"], ["--threads", "1"]):
        assert generate("a red ring", "--seed", "1", *options, "--memory-budget", "100G") == 0
        pictures.append(pixels(tmp_path / "out.png"))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "there is no prompt"),
        ([""], "the prompt is empty"),
        (["a", "--steps", "0"], "num_inference_steps is out of range | got 0"),
        (["a", "--guidance-scale", "inf"], "guidance_scale is out of range | got inf"),
        (["a", "-o", "/proc/out.png"], "/proc/out.png"),
        (["a", "--scale", "3"], "fam-export --model PATH_TO_fake --scale 3 --output "),
        (["a", "--size", "192x256"], "PATH_TO_fake --size 192x256 --output "),
        (["a", "--scale", "9"], "up to 512x512"),
        (["a", "--size", "100x100"], "multiples of 64 pixels"),
        (["a", "-o", "out.jpg"], "the output is no PNG file"),
        (["a", "-o", "no/such/out.png"], "the output's folder does not exist"),
        (["a", "--backend", "magic"], "unknown backend"),
        (["a", "--seed", str(2**70)], "seed is out of range"),
        (["a", "--threads", "0"], "num_threads is too small"),
        (["a", "--method", "fm", "--am-strength", "0.3"], "method fm fixes am_strength"),
        (["--from-png", "missing.png"], "cannot be read"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(generate, tmp_path, capsys, arguments, text):
    assert generate(*arguments) != 0
    captured = capsys.readouterr()
    assert text in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_bundle(tmp_path / "sd")
    path = root / "unet/native.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert main([str(root), "a red ring"]) != 0
    assert "unet/native.onnx" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def one_line(capsys, program="fam-generate: error: "):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(program)
    return lines[0]


def test_a_missing_bundle(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["no/such", "a red ring"]) == 3
    assert "no/such" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file(tmp_path, monkeypatch, capsys):
    root = write_bundle(tmp_path / "sd")
    monkeypatch.chdir(root.parent)
    path = root / "vae_decoder/model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    for options in ([], ["--no-verify"]):
        assert main([str(root), "a red ring", *options]) == 3
        assert "vae_decoder/model.onnx" in one_line(capsys)
    assert list(tmp_path.iterdir()) == [root]


def test_a_newer_format(tmp_path, monkeypatch, capsys):
    root = write_bundle(tmp_path / "sd")
    monkeypatch.chdir(root.parent)
    document = json.loads((root / "manifest.json").read_text("utf-8"))
    document["format_version"] = 999
    (root / "manifest.json").write_text(json.dumps(document), "utf-8")
    assert main([str(root), "a red ring"]) == 3
    assert "format version 999" in one_line(capsys)
    assert list(tmp_path.iterdir()) == [root]


def test_a_disk_that_fills_up_while_saving(generate, tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    assert generate("a red ring", "--quiet") == 6
    assert "no space left on the disk while writing out.png" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_found_before_the_work(monkeypatch, capsys):
    assert main(["no/such", "a red ring", "-o", "/proc/out.png"]) == 6
    assert "/proc/out.png" in one_line(capsys)


def test_no_verify_compares_sizes_only(bundle, tmp_path, monkeypatch):
    opened = []

    def record(path, *, verify="full", progress=None, real=Bundle.open):
        opened.append(verify)
        return real(path, verify=verify, progress=progress)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Bundle, "open", record)
    assert main([str(bundle), "a red ring", "--quiet", "--no-verify"]) == 0
    assert main([str(bundle), "a red ring", "--quiet"]) == 0
    assert opened == ["size", "full"]


def test_hashing_shows_a_bar_on_a_terminal_only(generate, monkeypatch, capsys):
    assert generate("a red ring") == 0
    assert "checking" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert generate("a red ring") == 0
    assert "checking" in capsys.readouterr().err
    assert generate("a red ring", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_native_picture_makes_nothing_again(generate, tmp_path, capsys):
    assert generate("a red ring", "--save-native", "--quiet") == 0
    assert generate("--from-png", "out-native.png", "-o", "x.png") == 2
    assert "use the picture without -native in its name" in one_line(capsys)
    assert not (tmp_path / "x.png").exists()


def resaved(tmp_path, **changes):
    settings = settings_from_png(tmp_path / "out.png")
    settings["made_with"] |= changes.pop("made_with", {})
    with Image.open(tmp_path / "out.png") as picture:
        save_png(picture, tmp_path / "changed.png", settings | changes)


def test_a_picture_made_in_another_way_is_warned_about(generate, tmp_path, capsys):
    assert generate("a red ring", "--low-memory", "--quiet") == 0
    again = ("--from-png", "out.png", "-o", "x.png", "--quiet")
    assert generate(*again, "--low-memory") == 0
    assert capsys.readouterr().err == ""
    assert generate(*again) == 0
    assert "made with low memory" in one_line(capsys, "fam-generate: warning: ")
    assert generate("a red ring", "--quiet") == 0
    assert generate(*again, "--low-memory") == 0
    assert "made without low memory" in one_line(capsys, "fam-generate: warning: ")
    resaved(tmp_path, made_with={"numpy": "0.1", "onnxruntime": "0.2"})
    assert generate("--from-png", "changed.png", "-o", "x.png", "--quiet") == 0
    warning = one_line(capsys, "fam-generate: warning: changed.png: ")
    assert "numpy 0.1 (now " in warning and "onnxruntime 0.2 (now " in warning


def test_pictures_per_batch_comes_back(generate, tmp_path):
    assert generate("a red ring", "--quiet") == 0
    resaved(tmp_path, pictures_per_batch=3)
    assert generate("--from-png", "changed.png", "-o", "x.png", "--quiet") == 0
    assert settings_from_png(tmp_path / "x.png")["pictures_per_batch"] == 3


def test_cut_prompts_are_warned_about_on_one_line(generate, capsys):
    assert generate("cat " * 75 + "the end", "--quiet") == 0
    error = capsys.readouterr().err.strip()
    assert error.startswith("fam-generate: warning:")
    assert "'the end'" in error
    assert len(error.splitlines()) == 1


def test_texts_become_values():
    assert size_from_text("128x256") == (128, 256)
    assert scale_from_text("2") == 2
    assert scale_from_text("2x4") == (2, 4)
    assert bytes_from_text("1.5G") == 3 << 29
    assert bytes_from_text("800MB") == 800 << 20
    for convert, text in (
        (size_from_text, "128"),
        (size_from_text, "-1x5"),
        (scale_from_text, "two"),
        (bytes_from_text, "lots"),
        (bytes_from_text, "-1M"),
        (bytes_from_text, "nan"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            convert(text)
