"""Pictures of the C++ runtime as files: rounding, PNG both ways, hostile files."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_runtime.errors import StorageError
from fam_runtime.picture import (
    parameters_text,
    pil_from_rgb,
    rgb_from_image,
    save_png,
    settings_from_png,
)
from tests.cpp.probe import CppError, Probe

SIGNATURE = b"\x89PNG\r\n\x1a\n"
OURS = b"fam\0\0\0\0\0"
SETTINGS: dict[str, Any] = {
    "settings_version": 1,
    "prompt": 'ein "roter" Ring — 赤い輪 \x01\x1f\x7f\n\t\\ 🦊 \u2028',
    "negative_prompt": "blur",
    "seed": 2**64 - 1,
    "height": 16,
    "width": 24,
    "num_inference_steps": 4,
    "guidance_scale": 7.5,
    "scheduler": "ddim",
    "method": "fam",
    "am_strength": 0.1,
    "bundle": {"name": "demo", "hash": "0" * 64},
    "vae_tile": [64, 16],
    "fm_tables": None,
}


def dumped(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def colours(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = (height, width, 3)
    return np.random.default_rng(height * width).integers(0, 256, shape).astype(np.uint8)


def saved(probe: Probe, path: Path, rgb: np.ndarray[Any, Any], settings: str) -> Path:
    raw = path.with_suffix(".rgb")
    rgb.tofile(raw)
    height, width = rgb.shape[:2]
    probe.ask(
        "picture.save", path=str(path), rgb=str(raw), height=height, width=width, settings=settings
    )
    raw.unlink()
    return path


def test_rounding(probe: Probe, tmp_path: Path) -> None:
    """Every tie, both sides of it, both ends, and the largest numbers there are."""
    ties = (np.arange(-2, 258, dtype=np.float32) + np.float32(0.5)) / np.float32(127.5) - 1
    ties = ties.astype(np.float32)
    edges = [np.nextafter(ties, np.float32(side), dtype=np.float32) for side in (-9, 9)]
    extreme = np.array([-3.4e38, 3.4e38, -2, 2, -1, 1, 0, -0.0, 1e-45, -1e-45], np.float32)
    random_values = np.random.default_rng(0).uniform(-1.2, 1.2, 3000).astype(np.float32)
    values = np.concatenate([ties, *edges, extreme, random_values])
    image = values[: values.size // 6 * 6].reshape(1, 3, 2, -1)
    image.tofile(tmp_path / "image")
    probe.ask(
        "picture.rgb",
        image=str(tmp_path / "image"),
        shape=image.shape,
        path=str(tmp_path / "rgb"),
    )
    with np.errstate(over="ignore"):
        expected = rgb_from_image(image)
    assert (tmp_path / "rgb").read_bytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (16, 24), (131, 67)])
def test_python_reads_what_cpp_writes(probe: Probe, tmp_path: Path, size: tuple[int, int]) -> None:
    rgb = colours(*size)
    path = saved(probe, tmp_path / "a.png", rgb, dumped(SETTINGS))
    assert settings_from_png(path) == SETTINGS
    with Image.open(path) as opened:
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), rgb)
        assert isinstance(opened, Image.Image)
        text = opened.text  # type: ignore[attr-defined]  # of PngImageFile
    assert text == {"fam": dumped(SETTINGS), "parameters": parameters_text(SETTINGS)}
    assert list(text) == ["fam", "parameters"]
    assert os.listdir(tmp_path) == ["a.png"]


def test_chunks_are_as_python_writes_them(probe: Probe, tmp_path: Path) -> None:
    """The same text chunks, byte for byte, before the pixels; no time, no program's name."""
    rgb = colours(16, 24)
    ours = chunks(saved(probe, tmp_path / "a.png", rgb, dumped(SETTINGS)))
    theirs = chunks(save_png(pil_from_rgb(rgb), tmp_path / "b.png", SETTINGS))
    assert [kind for kind, _ in ours] == [b"IHDR", b"iTXt", b"iTXt", b"IDAT", b"IEND"]
    assert ours[:3] == theirs[:3]


def chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data, found = path.read_bytes(), []
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def test_the_same_picture_gives_the_same_bytes(probe: Probe, tmp_path: Path) -> None:
    rgb = colours(16, 24)
    first = saved(probe, tmp_path / "a.png", rgb, dumped(SETTINGS)).read_bytes()
    assert saved(probe, tmp_path / "b.png", rgb, dumped(SETTINGS)).read_bytes() == first


def test_a_picture_without_settings(probe: Probe, tmp_path: Path) -> None:
    rgb = colours(16, 24)
    path = saved(probe, tmp_path / "a.png", rgb, "")
    assert [kind for kind, _ in chunks(path)] == [b"IHDR", b"IDAT", b"IEND"]
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(opened), rgb)


def test_parameters_text(probe: Probe) -> None:
    rng = random.Random(0)
    cases = [SETTINGS, {}, {**SETTINGS, "stage": "native"}, {**SETTINGS, "negative_prompt": ""}]
    for _ in range(200):
        settings = {key: value for key, value in SETTINGS.items() if rng.random() < 0.7}
        settings["guidance_scale"] = rng.choice([1.0, 1e16, 1e-7, 0.1, rng.uniform(0, 1000), 7])
        settings["seed"] = rng.choice([0, -1, 2**63, 2**64 - 1, rng.getrandbits(64)])
        settings["negative_prompt"] = rng.choice([None, "", "blur"])
        cases.append(settings)
    for settings in cases:
        text = probe.ask("picture.parameters", settings=dumped(settings))
        assert text == parameters_text(settings)


def test_places_that_cannot_be_written(probe: Probe, tmp_path: Path) -> None:
    rgb = colours(4, 4)
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path / "missing" / "a.png", folder, Path("/dev/null/a.png")):
        with pytest.raises(StorageError) as expected:
            save_png(pil_from_rgb(rgb), place, SETTINGS)
        raw = tmp_path / "raw"
        rgb.tofile(raw)
        with pytest.raises(CppError) as got:
            probe.ask(
                "picture.save", path=str(place), rgb=str(raw), height=4, width=4, settings="{}"
            )
        assert (got.value.kind, got.value.text) == ("StorageError", str(expected.value))
        raw.unlink()
    assert os.listdir(tmp_path) == ["folder"]


def test_a_file_is_replaced_whole(probe: Probe, tmp_path: Path) -> None:
    """Also under a name too long for a temporary suffix, and one of many bytes a character."""
    for name in ("a.png", "n" * 250 + ".png", "赤" * 80 + ".png"):
        path = tmp_path / name
        path.write_bytes(b"old")
        saved(probe, path, colours(4, 4), dumped(SETTINGS))
        assert settings_from_png(path) == SETTINGS
    assert len(os.listdir(tmp_path)) == 3
