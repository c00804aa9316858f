"""A Stable Diffusion checkpoint in diffusers' folder layout: what it is, and its parts, one by one.

Only safetensors weights are read: a pickle runs code of whoever made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from fam_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

Family = Literal["sd", "sdxl"]

DEMO = "demo"
"""The name of the small trained checkpoint that ships with the project."""

PIPELINE_FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}
PROMPT_TOKENS = 77
"""Length of a CLIP prompt."""

PICKLE_SUFFIXES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
ADD_FOLDER_LAYOUT = (
    "give a folder that holds model_index.json, as diffusers' save_pretrained writes it"
)


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint folder; its parts are loaded only when asked for.

    Attributes:
        root: the folder with `model_index.json`.
        name: what bundles made from it are called by default.
    """

    root: Path
    name: str

    @cached_property
    def family(self) -> Family:
        """`sdxl` for two text encoders and size conditions, else `sd`."""
        index = _read_json(self.root / "model_index.json")
        kind = index.get("_class_name")
        if kind not in PIPELINE_FAMILIES:
            raise CheckpointError(
                f"{self.root}: this pipeline is not supported",
                got=kind,
                expected=" or ".join(PIPELINE_FAMILIES),
                fix="FAM Diffusion is defined for the text-to-image pipelines of SD 1.x, 2.x, SDXL",
            )
        return PIPELINE_FAMILIES[str(kind)]

    @property
    def force_zeros_for_empty_prompt(self) -> bool:
        """Whether a missing negative prompt means zero embeddings; diffusers does so for SDXL."""
        index = _read_json(self.root / "model_index.json")
        return bool(index.get("force_zeros_for_empty_prompt", self.family == "sdxl"))

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders that hold weights."""
        second = ("text_encoder_2",) if self.family == "sdxl" else ()
        return ("text_encoder", *second, "unet", "vae")

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Folders of the tokenizers, in the order of the text encoders."""
        return ("tokenizer", "tokenizer_2") if self.family == "sdxl" else ("tokenizer",)

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part, such as ``unet``."""
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        return _read_json(self.root / part / file)

    def weight_files(self, part: str) -> tuple[Path, ...]:
        """The safetensors files of a part.

        Raises:
            CheckpointError: there are none, or only pickles.
        """
        folder = self.root / part
        files = tuple(sorted(folder.glob("*.safetensors"))) if folder.is_dir() else ()
        if files:
            return files
        pickles = [p.name for p in sorted(folder.glob("*")) if p.suffix in PICKLE_SUFFIXES]
        if pickles:
            raise _pickle_refused(folder / pickles[0])
        raise CheckpointError(
            f"{folder}: the weights are missing",
            expected=" or ".join(f"{stem}.safetensors" for stem in WEIGHT_STEMS),
            fix="download the checkpoint again",
        )

    def validate(self) -> None:
        """Look at every part without loading it.

        Raises:
            CheckpointError: a part is missing, truncated, a pickle or of an unsupported kind.
        """
        for part in self.parts:
            self.config(part)
            for file in self.weight_files(part):
                _check_safetensors(file)
        for part in self.tokenizers:
            if not (self.root / part).is_dir():
                raise CheckpointError(
                    f"{self.root / part}: the tokenizer is missing", fix=ADD_FOLDER_LAYOUT
                )
        self.config("scheduler")
        self._check_unet()
        self._check_sizes()

    def _check_unet(self) -> None:
        config = self.config("unet")
        unsupported = {
            "in_channels": (config.get("in_channels"), 4),
            "time_cond_proj_dim": (config.get("time_cond_proj_dim"), None),
            "class_embed_type": (config.get("class_embed_type"), None),
            "encoder_hid_dim_type": (config.get("encoder_hid_dim_type"), None),
        }
        for key, (got, expected) in unsupported.items():
            if got != expected:
                raise CheckpointError(
                    f"{self.root / 'unet'}: {key} is not supported",
                    got=got,
                    expected=str(expected),
                    fix="use a text-to-image checkpoint without further conditions",
                )

    def _check_sizes(self) -> None:
        """Keys of the configurations that the export computes with."""
        vae, unet = self.config("vae"), self.config("unet")
        required: dict[str, tuple[object, type | tuple[type, ...]]] = {
            "vae/latent_channels": (vae.get("latent_channels"), int),
            "vae/scaling_factor": (vae.get("scaling_factor"), (int, float)),
            "vae/block_out_channels": (vae.get("block_out_channels"), list),
            "unet/sample_size": (unet.get("sample_size"), (int, list)),
            "unet/cross_attention_dim": (unet.get("cross_attention_dim"), int),
        }
        for key, (got, kind) in required.items():
            if not isinstance(got, kind):
                raise CheckpointError(
                    f"{self.root / key.split('/')[0]}/config.json: {key.split('/')[1]} is not "
                    "usable",
                    got=got,
                    fix="use the configuration that belongs to the weights",
                )
        tokens = [
            self.config(part).get("max_position_embeddings")
            for part in self.parts
            if part.startswith("text_encoder")
        ]
        if vae["latent_channels"] != 4 or any(count != PROMPT_TOKENS for count in tokens):
            raise CheckpointError(
                f"{self.root}: the checkpoint's shapes are not those of Stable Diffusion",
                got=f"{vae['latent_channels']} latent channels, {tokens} tokens",
                expected=f"4 latent channels, {PROMPT_TOKENS} tokens",
                fix="use a Stable Diffusion 1.x, 2.x or XL checkpoint",
            )

    def fingerprint(self) -> str:
        """SHA-256 over the contents of every file that an export reads."""
        digest = hashlib.sha256((self.root / "model_index.json").read_bytes())
        folders = ("scheduler", *self.parts, *self.tokenizers)
        for folder in sorted(folders):
            for file in sorted((self.root / folder).iterdir()):
                if file.is_file():
                    with file.open("rb") as stream:
                        content = hashlib.file_digest(stream, "sha256").hexdigest()
                    digest.update(f"{folder}/{file.name} {content}\n".encode())
        return digest.hexdigest()

    def load_unet(self) -> UNet2DConditionModel:
        """The UNet in fp32, ready for inference."""
        from diffusers import UNet2DConditionModel

        return self._load(UNet2DConditionModel, "unet")

    def load_vae(self) -> AutoencoderKL:
        """The VAE in fp32, ready for inference."""
        from diffusers import AutoencoderKL

        return self._load(AutoencoderKL, "vae")

    def load_text_encoder(self, index: int) -> CLIPTextModel | CLIPTextModelWithProjection:
        """Text encoder 0, or 1 for SDXL's second one, in fp32."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        if index == 0:
            return self._load(CLIPTextModel, "text_encoder")
        return self._load(CLIPTextModelWithProjection, "text_encoder_2")

    def load_tokenizer(self, index: int) -> CLIPTokenizer:
        """Tokenizer 0, or 1 for SDXL's second one."""
        from transformers import CLIPTokenizer

        folder = self.root / self.tokenizers[index]
        try:
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{folder}: the tokenizer could not be loaded",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                expected="vocab.json and merges.txt of a CLIP tokenizer",
                fix="download the checkpoint again",
            ) from error

    def _load(self, cls: Any, part: str) -> Any:
        import diffusers.utils.logging
        import torch
        import transformers.utils.logging

        # The export has progress bars of its own, one per stage.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()

        variant = {}
        if all(".fp16" in file.name for file in self.weight_files(part)):
            variant = {"variant": "fp16"}
        dtype = "dtype" if part.startswith("text_encoder") else "torch_dtype"
        try:
            model = cls.from_pretrained(
                self.root / part,
                use_safetensors=True,
                local_files_only=True,
                **{dtype: torch.float32},
                **variant,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.root / part} could not be loaded",
                got=str(error).splitlines()[0],
                fix="check that config.json belongs to the weights beside it",
            ) from error
        return model.eval().requires_grad_(False)


def open_checkpoint(model: str | Path | None) -> Checkpoint:
    """Find a checkpoint: None or ``demo`` is the one that ships with the project.

    Raises:
        CheckpointError: nothing usable is there; the text says what to give instead.
    """
    if model is None or str(model) == DEMO:
        checkpoint = Checkpoint(Path(str(resources.files("fam_export") / "demo/checkpoint")), DEMO)
        checkpoint.validate()
        return checkpoint
    path = Path(model)
    if path.suffix in PICKLE_SUFFIXES:
        raise _pickle_refused(path)
    if not path.exists():
        raise CheckpointError(
            f"there is no checkpoint at {path}",
            expected="a diffusers folder",
            fix="check the path, or leave --model out to use the demo checkpoint",
        )
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is a single file", expected="a diffusers folder", fix=ADD_FOLDER_LAYOUT
        )
    if not (path / "model_index.json").is_file():
        raise CheckpointError(
            f"{path} is not a diffusers checkpoint: model_index.json is missing",
            fix=ADD_FOLDER_LAYOUT,
        )
    checkpoint = Checkpoint(path, path.resolve().name)
    checkpoint.validate()
    return checkpoint


def _pickle_refused(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a pickle, and loading a pickle runs code of whoever made it",
        expected="safetensors weights",
        fix="convert it with diffusers on a machine you can lose, then export the folder",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: the file is missing", fix="download the checkpoint again"
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON", got=str(error), fix="download the checkpoint again"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a configuration", expected="a JSON object")
    return document


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged",
            got=str(error),
            expected="a whole safetensors file",
            fix="download the checkpoint again",
        ) from error
