"""The folder of a batch's pictures: a picture is made once, and found again by its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fam_runtime.batch.index import IndexEntry
from fam_runtime.errors import FamError, InvalidRequest, StorageError
from fam_runtime.picture import settings_from_png
from fam_runtime.settings import settings_of_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from fam_runtime.batch.prompt_file import PromptLine
    from fam_runtime.bundle import Bundle
    from fam_runtime.pipeline import FamPipeline
    from fam_runtime.request import Request

NOT_ASKED_FOR = ("made_with", "vae_tile")
"""Settings that no line can ask for: versions of libraries, and what the memory allowed."""


def make_or_keep(pipe: FamPipeline, line: PromptLine, folder: Path) -> IndexEntry:
    """Make the picture of a line, unless `folder` has it with the settings that the line asks for.

    An input that cannot be used, or a picture that fails, is an entry with its error.

    Raises:
        StorageError: the folder cannot be written, which no other line would change.
    """
    try:
        return _made_or_kept(pipe, line, folder / line.file)
    except StorageError:
        raise
    except FamError as error:
        return IndexEntry(line.number, "failed", error=str(error))


def _made_or_kept(pipe: FamPipeline, line: PromptLine, path: Path) -> IndexEntry:
    request = line.request(pipe.bundle)
    state: Literal["made", "kept"] = "kept"
    image = kept_image(path, pipe.bundle, request)
    if image is None:
        state, result = "made", pipe(**line.arguments())
        result.save(path)
        image = result.images[0]
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return IndexEntry(line.number, state, line.file, request.pictures[0].seed, digest)


def kept_image(path: Path, bundle: Bundle, request: Request) -> Image | None:
    """The picture at `path`, RGB, if it is whole and was made with the settings of the request.

    Raises:
        InvalidRequest: a file is there that is no picture with settings; it is left alone.
    """
    from PIL import Image

    if not path.exists():
        return None
    try:
        found = settings_from_png(path)
    except InvalidRequest as error:
        raise InvalidRequest(
            "a file that this toolkit did not make has the picture's name",
            got=str(path),
            expected="a picture with settings, or no file",
            fix="move it away, or give the line another name",
        ) from error
    wanted = settings_of_picture(bundle, request, request.pictures[0], {}, None)
    if _asked_for(found) != _asked_for(json.loads(json.dumps(wanted))):
        return None
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # Pillow's words for a file that is cut or damaged
        return None


def _asked_for(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in NOT_ASKED_FOR}
