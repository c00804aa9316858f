"""Pickles are refused by name, unread: loading one runs code of whoever made it."""

from __future__ import annotations

from pathlib import Path

from fam_runtime.errors import CheckpointError

PICKLE_SUFFIXES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


def refuse_pickle(path: Path) -> None:
    """Raise CheckpointError when the name of `path` is that of a pickle."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path} is a pickle, and loading a pickle runs code of whoever made it",
            expected="safetensors weights",
            fix="convert it with diffusers on a machine you can lose, then give the result",
        )
