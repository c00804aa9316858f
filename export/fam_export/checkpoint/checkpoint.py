"""A Stable Diffusion checkpoint: what it is, and its parts, one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_export.checkpoint.checks import check_configuration
from fam_export.checkpoint.configuration import Configuration, Family
from fam_export.checkpoint.description import describe
from fam_export.checkpoint.distilled import Distilled, distilled_from_config
from fam_export.checkpoint.files import CheckpointFiles
from fam_export.checkpoint.lora import Lora
from fam_export.checkpoint.lora_file import LoraLayers, lora_layers
from fam_export.checkpoint.modules import empty_module, fill, parameters_of
from fam_export.checkpoint.stored_tensor import StoredTensor
from fam_export.checkpoint.weights import WeightSource
from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch import nn
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint; its parts are loaded only when asked for.

    Attributes:
        files: where everything is read from.
        name: what bundles made from it are called by default.
        source: what the user called it: a path, a hub's id, or ``demo``.
        loras: adapters that are merged into the weights, none of strength 0.
    """

    files: CheckpointFiles
    name: str
    source: str
    loras: tuple[Lora, ...] = ()

    @property
    def root(self) -> Path:
        """The folder or the file of the weights."""
        return self.files.root

    @property
    def family(self) -> Family:
        """`sdxl` for two text encoders and size conditions, else `sd`."""
        return self._configuration.family

    @property
    def force_zeros_for_empty_prompt(self) -> bool:
        """Whether a missing negative prompt means zero embeddings; diffusers does so for SDXL."""
        index = self._configuration.model_index
        return bool(index.get("force_zeros_for_empty_prompt", self.family == "sdxl"))

    @property
    def parts(self) -> tuple[str, ...]:
        """What has weights: ``unet``, ``vae``, ``text_encoder``, for SDXL ``text_encoder_2``."""
        return self._configuration.parts

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Names of the tokenizers, in the order of the text encoders."""
        return self._configuration.tokenizers

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The configuration of the scheduler."""
        return self.config("scheduler")

    @property
    def distilled(self) -> Distilled | None:
        """How to sample a checkpoint that runs without guidance; None: it is not distilled."""
        return distilled_from_config(self.scheduler_config, self.config("unet"))

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed about the checkpoint: a sentence each."""
        return self.files.notes

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part, such as ``unet``."""
        return self._configuration.read(part)

    def describe(self) -> str:
        """One line: ``Stable Diffusion XL, single file, fp16``."""
        return describe(self)

    def validate(self) -> None:
        """Look at every file without reading weights.

        Raises:
            CheckpointError: a part is missing, truncated, a pickle or of an unsupported kind, its
                weights do not fit its configuration, or a LoRA does not belong to the checkpoint.
        """
        self.files.validate()
        check_configuration(self._configuration, self.source)
        for part in self.parts:
            self.weights(part)

    def fingerprint(self) -> str:
        """SHA-256 over the contents of everything that an export reads."""
        digest = hashlib.sha256()
        for content in self.files.contents():
            digest.update(content)
        for lora in self.loras:
            digest.update(f"lora {lora.sha256()} {lora.strength!r}\n".encode())
        return digest.hexdigest()

    def weights(self, part: str) -> WeightSource:
        """The tensors of a part by the names of its module, read one by one, LoRAs fused in.

        Raises:
            CheckpointError: the weights do not fit the configuration.
        """
        stored = self._stored(part, self.empty_module(part))
        return WeightSource(stored, self._lora_layers.get(part) if self.loras else None)

    def empty_module(self, part: str) -> nn.Module:
        """The module of a part in fp32 on the meta device, ready for inference.

        Its buffers are on the CPU; :meth:`weights` has its parameters.
        """
        module = empty_module(part, self.config(part), self.source)
        return module.eval().requires_grad_(False)

    def load_unet(self, dtype: torch.dtype | None = None) -> UNet2DConditionModel:
        """The UNet in `dtype` (None: fp32), ready for inference."""
        return self._load("unet", dtype)

    def load_vae(self, dtype: torch.dtype | None = None) -> AutoencoderKL:
        """The VAE in `dtype` (None: fp32), ready for inference."""
        return self._load("vae", dtype)

    def load_text_encoder(
        self, index: int, dtype: torch.dtype | None = None
    ) -> CLIPTextModel | CLIPTextModelWithProjection:
        """Text encoder 0, or 1 for SDXL's second one, in `dtype` (None: fp32)."""
        return self._load("text_encoder" if index == 0 else "text_encoder_2", dtype)

    def load_tokenizer(self, index: int) -> CLIPTokenizer:
        """Tokenizer 0, or 1 for SDXL's second one.

        Raises:
            CheckpointError: its files are damaged.
        """
        from transformers import CLIPTokenizer

        part = self.tokenizers[index]
        try:
            with self._configuration.tokenizer_folder(part) as folder:
                return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{self.source}: {part} could not be loaded",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                expected="vocab.json and merges.txt of a CLIP tokenizer",
                fix="download the checkpoint again",
            ) from error

    @property
    def _configuration(self) -> Configuration:
        return self.files.configuration

    def _stored(self, part: str, module: nn.Module) -> Mapping[str, StoredTensor]:
        where = f"{self.source}, {part}"
        return parameters_of(module, self.files.tensors(part, module), where)

    @cached_property
    def _lora_layers(self) -> Mapping[str, LoraLayers]:
        modules = {part: self.empty_module(part) for part in self.parts if part != "vae"}
        return lora_layers(self.loras, modules)

    def _load(self, part: str, dtype: torch.dtype | None) -> Any:
        import torch

        return fill(self.empty_module(part), self.weights(part), dtype or torch.float32)
