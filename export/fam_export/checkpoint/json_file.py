"""Reading the JSON files of a checkpoint: they come from strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fam_runtime.errors import CheckpointError

DOWNLOAD_AGAIN = "download the checkpoint again"


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file at `path`.

    Raises:
        CheckpointError: it is missing, not readable, or no object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing", fix=DOWNLOAD_AGAIN) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON", got=str(error), fix=DOWNLOAD_AGAIN
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a configuration", expected="a JSON object")
    return document
