"""What to tell a user whose path is not a bundle."""

from __future__ import annotations

import os
from pathlib import Path

from fam_runtime.errors import BundleNotFound

_CHECKPOINT_MARKS = ("model_index.json", "unet/config.json", "v1-inference.yaml")
_CHECKPOINT_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def not_a_bundle(path: Path) -> BundleNotFound:
    """The error for `path`, which holds no manifest.json, with the most likely remedy."""
    if not path.exists():
        return BundleNotFound(
            f"there is no bundle at {path}",
            expected="a directory with manifest.json",
            fix=f"make one with fam-export --output {path}",
        )
    if not path.is_dir():
        return _not_a_directory(path)
    if any((path / mark).is_file() for mark in _CHECKPOINT_MARKS):
        return BundleNotFound(
            f"{path} is a checkpoint, not a bundle",
            expected="a directory made by fam-export",
            fix=f"export it first: fam-export --model {path} --output engines/{path.name}",
        )
    below = _bundles_below(path)
    return BundleNotFound(
        f"{path} is not a bundle",
        got="no manifest.json",
        expected="a directory made by fam-export",
        fix=f"did you mean {below[0]}?" if below else "make one with fam-export --output DIRECTORY",
    )


def _not_a_directory(path: Path) -> BundleNotFound:
    if path.suffix in _CHECKPOINT_ENDINGS:
        return BundleNotFound(
            f"{path} is a file of weights, not a bundle",
            expected="a directory made by fam-export",
            fix=f"export it first: fam-export --model {path} --output engines/{path.stem}",
        )
    if path.name == "manifest.json":
        return BundleNotFound(
            f"{path} is the manifest of a bundle",
            expected="the directory that holds it",
            fix=f"use {path.parent}",
        )
    return BundleNotFound(
        f"{path} is a file, not a bundle",
        expected="a directory with manifest.json",
        fix="make one with fam-export --output DIRECTORY",
    )


def _bundles_below(path: Path) -> list[str]:
    """Bundles directly inside `path`, for somebody who named the folder above."""
    try:
        with os.scandir(path) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith("."))
    except OSError:
        return []
    return [str(path / n) for n in names[:100] if (path / n / "manifest.json").is_file()]
