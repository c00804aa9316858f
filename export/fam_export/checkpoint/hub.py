"""Checkpoints by their id on a model hub: from the local cache, or fetched into it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fam_export.checkpoint.folder import FolderFiles, Variant, weight_stem
from fam_runtime.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
SMALL_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "tokenizer_2/*",
    *(f"{part}/config.json" for part in PARTS),
)


def is_hub_id(model: str | Path) -> bool:
    """Whether `model` looks like ``org/name``."""
    return isinstance(model, str) and _HUB_ID.fullmatch(model) is not None


def snapshot(model: str, prefer: Variant) -> Path:
    """The folder in the local cache that holds the checkpoint `model`.

    It is fetched when it is not there whole: configurations, tokenizers and safetensors only.

    Raises:
        CheckpointError: it is not in the cache and cannot be fetched; the text says with which
            command to fetch it elsewhere.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise CheckpointError(
            f"{model} is no path, and huggingface_hub, which would fetch it, is not installed",
            fix="pip install 'fam-diffusion[export]', or give a folder",
        ) from error
    # What the library raises about networks, permissions and its cache has no common base.
    try:
        folder = Path(hub.snapshot_download(model, local_files_only=True))
    except Exception:
        folder = None
    if folder is not None and _is_whole(folder, prefer):
        return folder
    try:
        wanted = wanted_files(hub.HfApi().list_repo_files(model), prefer)
        return Path(hub.snapshot_download(model, allow_patterns=wanted))
    except Exception as error:
        raise _not_fetched(model, prefer, error) from error


def wanted_files(names: Iterable[str], prefer: Variant) -> list[str]:
    """Those of a repository's files that an export reads: one precision, never a pickle.

    Half precision is taken where it is preferred and there, and where there is nothing else.
    """
    names = sorted(names)
    wanted = [name for name in names if any(fnmatchcase(name, p) for p in SMALL_FILES)]
    for part in PARTS:
        stem = re.escape(f"{part}/{weight_stem(part)}")
        shard = r"(-\d{5}-of-\d{5})?"
        index = r"\.safetensors\.index"
        plain = re.compile(rf"{stem}({shard}\.safetensors|{index}\.json)")
        # diffusers has put the variant before and behind the number of a shard.
        half = re.compile(
            rf"{stem}(\.fp16{shard}\.safetensors|{shard}\.fp16\.safetensors|{index}\.fp16\.json)"
        )
        order = (plain, half) if prefer == "fp32" else (half, plain)
        found = ([name for name in names if pattern.fullmatch(name)] for pattern in order)
        wanted += next((files for files in found if files), [])
    return wanted


def _is_whole(folder: Path, prefer: Variant) -> bool:
    try:
        FolderFiles(folder, prefer).validate()
    except CheckpointError:
        return False
    return True


def _not_fetched(model: str, prefer: Variant, error: Exception) -> CheckpointError:
    ending = "model.fp16.safetensors" if prefer == "fp16" else "model.safetensors"
    include: Sequence[str] = ("*.json", "tokenizer*", f"*/*{ending}")
    options = " ".join(f"--include '{pattern}'" for pattern in include)
    return CheckpointError(
        f"{model} is no path, and no checkpoint of that id could be fetched",
        got=str(error).splitlines()[0] if str(error) else type(error).__name__,
        expected="a model in diffusers' layout, in the local cache or on the hub",
        fix=f"where there is a network: hf download {model} {options} --exclude 'safety_checker/*'"
        " (HF_ENDPOINT names a mirror, HF_HOME the cache that you can copy here)",
    )
