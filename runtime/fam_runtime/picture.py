"""Pictures as files: 8-bit RGB in a PNG that carries the settings which made it.

Rounding, for every runtime: ``clip((x + 1) · 127.5, 0, 255)`` in float32, rounded half to even.

Two text chunks are written before the pixels: ``fam``, the settings as JSON (all of them), and
``parameters``, the words that image viewers and web interfaces show. Reading trusts nothing: the
chunks are walked without a decompressor, and lengths, checksums and types are checked.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fam_runtime.bundle import write_atomically
from fam_runtime.errors import InvalidRequest

if TYPE_CHECKING:
    from PIL.Image import Image

SETTINGS_KEYWORD = "fam"
PARAMETERS_KEYWORD = "parameters"

MAX_SETTINGS_BYTES = 1 << 20
_MAX_CHUNKS = 1_000
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def rgb_from_image(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """8-bit pictures ``[B, height, width, 3]`` from float32 ``[B, 3, height, width]``, -1 to 1."""
    scaled = image + np.float32(1)
    scaled *= np.float32(127.5)  # in place: a picture of 4096 x 4096 takes 200 MB in float32
    np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled)
    rgb = scaled.astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(rgb)


def pil_from_rgb(rgb: npt.NDArray[np.uint8]) -> Image:
    """A PIL picture from uint8 ``[height, width, 3]``."""
    from PIL import Image

    return Image.fromarray(rgb, "RGB")


def save_png(image: Image, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> Path:
    """Write a PNG that carries `settings`; the file appears whole or not at all.

    Raises:
        StorageError: the disk is full, or the place may not be written.
    """
    write_atomically(path, lambda stream: _write_png(image, stream, settings))
    return Path(path)


def png_from_image(image: Image, settings: Mapping[str, Any]) -> bytes:
    """The bytes of a PNG that carries `settings`."""
    stream = io.BytesIO()
    _write_png(image, stream, settings)
    return stream.getvalue()


def _write_png(image: Image, stream: BinaryIO, settings: Mapping[str, Any]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(SETTINGS_KEYWORD, json.dumps(settings, sort_keys=True, ensure_ascii=False))
    info.add_itxt(PARAMETERS_KEYWORD, parameters_text(settings))
    image.save(stream, format="PNG", pnginfo=info)


def parameters_text(settings: Mapping[str, Any]) -> str:
    """The settings in the words that Stable Diffusion's web interfaces read and show."""
    lines = [str(settings.get("prompt", ""))]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    native = settings.get("stage") == "native"  # the settings are those of the target beside it
    named = {
        "Steps": settings.get("num_inference_steps"),
        "Sampler": settings.get("scheduler"),
        "CFG scale": settings.get("guidance_scale"),
        "Seed": settings.get("seed"),
        "Size": None if native else f"{settings.get('width')}x{settings.get('height')}",
        "Model": settings.get("bundle", {}).get("name"),
        "FAM method": settings.get("method"),
        "FAM am_strength": settings.get("am_strength"),
    }
    lines.append(", ".join(f"{key}: {value}" for key, value in named.items() if value is not None))
    return "\n".join(lines)


def settings_from_png(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that a PNG carries.

    Raises:
        InvalidRequest: the file is missing, no PNG, damaged, or carries no settings.
    """
    try:
        with Path(path).open("rb") as file:
            text = _settings_text(file, os.fspath(path))
    except OSError as error:
        raise InvalidRequest(
            "the picture cannot be read",
            got=str(error),
            expected="a PNG file",
            fix="check its path",
        ) from error
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(os.fspath(path), f"settings that are no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise _damaged(os.fspath(path), f"settings that are a {type(settings).__name__}")
    return settings


def _settings_text(file: BinaryIO, path: str) -> str:
    if file.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
        raise _damaged(path, "no PNG signature")
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise _damaged(path, "the end of the file")
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind != b"iTXt":
            file.seek(length + 4, os.SEEK_CUR)
            continue
        if length > MAX_SETTINGS_BYTES:
            raise _damaged(path, f"a text of {length} bytes")
        body, checksum = file.read(length), file.read(4)
        if checksum != struct.pack(">I", zlib.crc32(kind + body)):
            raise _damaged(path, "a text with a wrong checksum")
        text = _uncompressed_itxt(body, path)
        if text is not None:
            return text
    raise InvalidRequest(
        f"{path} carries no settings",
        expected=f"a PNG with an uncompressed {SETTINGS_KEYWORD!r} text before its pixels",
        fix="use a picture that fam-generate wrote and that no other program has saved again",
    )


def _uncompressed_itxt(body: bytes, path: str) -> str | None:
    """The text of an iTXt chunk if its keyword is ours: keyword, 0, 0, method, language, 0, …"""
    keyword, _, rest = body.partition(b"\0")
    if keyword != SETTINGS_KEYWORD.encode() or not rest or rest[0]:
        return None
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        raise _damaged(path, "a text without its fields")
    try:
        return parts[2].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, "a text that is not UTF-8") from error


def _damaged(path: str, got: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is not a picture with settings",
        got=got,
        expected="a PNG that fam-generate wrote",
        fix="choose another file",
    )
