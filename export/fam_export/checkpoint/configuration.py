"""The configurations of a checkpoint: a folder in diffusers' layout, of which no weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fam_export.checkpoint.json_file import read_json
from fam_runtime.errors import CheckpointError

Family = Literal["sd", "sdxl"]

PIPELINE_FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}
ADD_FOLDER_LAYOUT = (
    "give a folder that holds model_index.json, as diffusers' save_pretrained writes it"
)
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "vae": {"scaling_factor": 0.18215, "latent_channels": 4},
    "unet": {"in_channels": 4},
    "text_encoder": {"max_position_embeddings": 77},
    "text_encoder_2": {"max_position_embeddings": 77},
}
"""Values that the export computes with and older configurations leave to the classes of diffusers
and transformers (SD 1.5's VAE does not state its scaling factor)."""


@dataclass(frozen=True)
class Configuration:
    """A folder with ``model_index.json`` and a folder per part.

    Attributes:
        root: the folder.
        overrides: keys by part that the weights themselves state otherwise.
    """

    root: Path
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def model_index(self) -> dict[str, Any]:
        """The pipeline's class and components."""
        return read_json(self.root / "model_index.json")

    @property
    def family(self) -> Family:
        """`sdxl` for two text encoders and size conditions, else `sd`.

        Raises:
            CheckpointError: the pipeline is none of Stable Diffusion's text-to-image pipelines.
        """
        kind = self.model_index.get("_class_name")
        if kind not in PIPELINE_FAMILIES:
            raise CheckpointError(
                f"{self.root}: this pipeline is not supported",
                got=kind,
                expected=" or ".join(PIPELINE_FAMILIES),
                fix="FAM Diffusion is defined for the text-to-image pipelines of SD 1.x, 2.x, SDXL",
            )
        return PIPELINE_FAMILIES[str(kind)]

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders that hold weights in diffusers' layout."""
        second = ("text_encoder_2",) if self.family == "sdxl" else ()
        return ("text_encoder", *second, "unet", "vae")

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Folders of the tokenizers, in the order of the text encoders."""
        return ("tokenizer", "tokenizer_2") if self.family == "sdxl" else ("tokenizer",)

    def read(self, part: str) -> dict[str, Any]:
        """The configuration of a part, or of ``scheduler``, as an export needs it."""
        return {
            **DEFAULTS.get(part, {}),
            **read_json(self.file(part)),
            **self.overrides.get(part, {}),
        }

    def file(self, part: str) -> Path:
        """Where the configuration of a part is."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return self.root / part / name

    @contextmanager
    def tokenizer_folder(self, part: str) -> Iterator[Path]:
        """A folder that transformers can load the tokenizer `part` from."""
        yield self.root / part

    def files(self, part: str) -> list[Path]:
        """The files that are read for a part or a tokenizer, without weights."""
        if part not in self.tokenizers:
            return [self.file(part)]
        return [file for file in (self.root / part).iterdir() if file.is_file()]

    def validate(self) -> None:
        """Look for every file.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        for part in (*self.parts, "scheduler"):
            self.read(part)
        for part in self.tokenizers:
            if not (self.root / part).is_dir():
                raise CheckpointError(
                    f"{self.root / part}: the tokenizer is missing", fix=ADD_FOLDER_LAYOUT
                )
