"""PNG files: rounding, settings in and out, hostile files."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fam_runtime.errors import InvalidRequest, StorageError
from fam_runtime.picture import (
    MAX_SETTINGS_BYTES,
    parameters_text,
    pil_from_rgb,
    rgb_from_image,
    save_png,
    settings_from_png,
)

SETTINGS = {
    "prompt": "ein roter Ring — 赤い輪",
    "negative_prompt": "blur",
    "seed": 2**64 - 1,
    "height": 16,
    "width": 24,
    "num_inference_steps": 4,
    "guidance_scale": 7.5,
    "bundle": {"name": "demo", "hash": "0" * 64},
}


def picture():
    return pil_from_rgb(np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3))


def test_rounding_is_half_to_even_and_clipped():
    tie_at_64, tie_at_127 = -0.4941176474094391, 0.0  # (x + 1) · 127.5 = 64.5 and 127.5 in float32
    values = np.array([-2, -1, tie_at_64, tie_at_127, 1, 2, 1 / 127.5 - 1, -0.99608], np.float32)
    image = np.tile(values, (1, 3, 1, 1))
    assert rgb_from_image(image)[0, 0, :, 0].tolist() == [0, 0, 64, 128, 255, 255, 1, 0]


def test_settings_come_back_and_viewers_see_them(tmp_path):
    path = save_png(picture(), tmp_path / "a.png", SETTINGS)
    assert settings_from_png(path) == SETTINGS
    with Image.open(path) as opened:
        assert opened.text["parameters"] == parameters_text(SETTINGS)
        assert "Steps: 4" in opened.text["parameters"]
        assert json.loads(opened.text["fam"]) == SETTINGS
        assert np.array_equal(np.asarray(opened), np.asarray(picture()))


def test_the_same_picture_gives_the_same_bytes(tmp_path):
    first = save_png(picture(), tmp_path / "a.png", SETTINGS).read_bytes()
    assert save_png(picture(), tmp_path / "b.png", SETTINGS).read_bytes() == first


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    class FullDisk:
        def save(self, file, **_):
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="no space left"):
        save_png(FullDisk(), tmp_path / "a.png", SETTINGS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError):
        save_png(picture(), tmp_path / "missing" / "a.png", SETTINGS)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


SIGNATURE = b"\x89PNG\r\n\x1a\n"
OURS = b"fam\0\0\0\0\0"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no PNG signature"),
        (b"GIF89a..", "no PNG signature"),
        (SIGNATURE, "end of the file"),
        (SIGNATURE + chunk(b"IEND", b""), "carries no settings"),
        (SIGNATURE + chunk(b"IDAT", b"") + chunk(b"iTXt", OURS + b"{}"), "carries no settings"),
        (SIGNATURE + chunk(b"iTXt", OURS + b"{") + chunk(b"IEND", b""), "no JSON"),
        (SIGNATURE + chunk(b"iTXt", OURS + b"[" * 100_000), "no JSON"),
        (SIGNATURE + chunk(b"iTXt", OURS + b"[1]"), "a list"),
        (SIGNATURE + chunk(b"iTXt", OURS + b"\xff\xfe"), "not UTF-8"),
        (SIGNATURE + chunk(b"iTXt", b"fam\0\0\0"), "without its fields"),
        (SIGNATURE + chunk(b"iTXt", b"fam\0\1\0\0\0" + zlib.compress(b"{}")), "end of the file"),
        (SIGNATURE + chunk(b"iTXt", OURS + b"{}")[:-1] + b"?", "wrong checksum"),
        (SIGNATURE + struct.pack(">I", MAX_SETTINGS_BYTES + 1) + b"iTXt", "a text of"),
        (SIGNATURE + struct.pack(">I", 2**32 - 1) + b"zzzz", "end of the file"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, text):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=text):
        settings_from_png(path)


def test_endless_chunks_are_not_read_for_ever(tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(SIGNATURE + chunk(b"tEXt", b"") * 5_000)
    with pytest.raises(InvalidRequest, match="carries no settings"):
        settings_from_png(path)


def test_a_missing_file_is_a_message(tmp_path):
    with pytest.raises(InvalidRequest, match="cannot be read"):
        settings_from_png(tmp_path / "missing.png")


@given(st.binary(max_size=300))
def test_any_bytes_give_settings_or_a_message(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "x.png"
    path.write_bytes(SIGNATURE + content)
    with contextlib.suppress(InvalidRequest):
        assert isinstance(settings_from_png(path), dict)
