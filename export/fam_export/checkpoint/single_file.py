"""A checkpoint in one safetensors file, in the key layout of the original implementations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_export.checkpoint.configuration import Configuration
from fam_export.checkpoint.file_kind import shipped_configuration_name
from fam_export.checkpoint.files import CheckpointFiles
from fam_export.checkpoint.hashing import file_hash
from fam_export.checkpoint.original_layout import converted
from fam_export.checkpoint.shipped import configuration_named
from fam_export.checkpoint.stored_tensor import StoredTensor, TensorFile, open_tensor_file

if TYPE_CHECKING:
    from torch import nn

SD21, SD21_BASE = "sd21", "sd21-base"

ARCHITECTURE_SD21_BASE = "stable-diffusion-v2-512"
ARCHITECTURE_SD21 = "stable-diffusion-v2-768-v"
"""What trainers write into the file's metadata under ``modelspec.architecture``."""

ASSUMED_768_V = (
    "taken for the 768-pixel model with v-prediction, as diffusers does "
    f"(for the 512-pixel base model give the configuration {SD21_BASE})"
)


class SingleFile(CheckpointFiles):
    """The file of a checkpoint, and configurations that come from elsewhere.

    Args:
        path: a safetensors file.
        config: a folder with configurations and tokenizers, or the name of a shipped one; None:
            the shipped one that belongs to what the file holds.
    """

    layout = "single file"

    def __init__(self, path: Path, config: Path | None = None) -> None:
        self._path = path
        self._config = config

    @property
    def root(self) -> Path:
        """The file."""
        return self._path

    @cached_property
    def configuration(self) -> Configuration:
        """That of the model, with what the file itself says about its predictions."""
        name = shipped_configuration_name(self._file.tensors, self._path)
        if name == SD21 and self._architecture.startswith(ARCHITECTURE_SD21_BASE):
            name = SD21_BASE
        configuration = configuration_named(self._config or name)
        return replace(configuration, overrides={"scheduler": self._scheduler_overrides})

    @property
    def notes(self) -> tuple[str, ...]:
        """An SD 2.x file does not say which of the two models it is."""
        known = self._config or self._architecture.startswith(ARCHITECTURE_SD21)
        assumed = self.configuration.root.name == SD21 and not known
        return (ASSUMED_768_V,) if assumed else ()

    def tensors(self, part: str, module: nn.Module) -> Mapping[str, StoredTensor]:
        """The tensors of `part` under diffusers' names."""
        return converted(self._file.tensors, part, module, self._path)

    def validate(self) -> None:
        """Look at the file's header and the configurations.

        Raises:
            CheckpointError: the file is damaged, or none of Stable Diffusion's.
        """
        self.configuration.validate()

    def contents(self) -> Iterator[bytes]:
        """The hash of the file, then of every configuration and tokenizer that is read."""
        yield f"single file {file_hash(self._path)}\n".encode()
        configuration = self.configuration
        yield (configuration.root / "model_index.json").read_bytes()
        for part in sorted(("scheduler", *configuration.parts, *configuration.tokenizers)):
            for file in sorted(configuration.files(part)):
                yield f"{part}/{file.name} {file_hash(file)}\n".encode()

    @cached_property
    def _file(self) -> TensorFile:
        return open_tensor_file(self._path)

    @property
    def _architecture(self) -> str:
        return str(self._file.metadata.get("modelspec.architecture", ""))

    @property
    def _scheduler_overrides(self) -> Mapping[str, Any]:
        """What marker keys say: ``v_pred``, and ``ztsnr`` for a schedule that ends in noise."""
        overrides: dict[str, Any] = {}
        if "v_pred" in self._file.tensors:
            overrides["prediction_type"] = "v_prediction"
        if "ztsnr" in self._file.tensors:
            overrides["rescale_betas_zero_snr"] = True
        return overrides
