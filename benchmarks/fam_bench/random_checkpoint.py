"""Full-size checkpoints with random weights, in the forms that people have them.

``python -m fam_bench.random_checkpoint --model sdxl --format single-file --output FILE`` writes the
architecture of the published model tensor by tensor, in less memory than PyTorch takes to start.
The same seed gives the same values in every format.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fam_bench.original_layout import (
    OriginalTensor,
    Shapes,
    original_unet_name,
    single_file_tensors,
)
from fam_bench.random_tensors import random_pieces, whole
from fam_bench.safetensors_writer import StreamedTensor, write_safetensors
from fam_export.checkpoint.configuration import Configuration
from fam_export.checkpoint.folder import weight_stem
from fam_export.checkpoint.modules import empty_module
from fam_export.checkpoint.shipped import configuration_named
from fam_runtime.cli.errors import run_cli

KINDS = ("sd15", "sd21", "sdxl")
Format = Literal["folder", "folder-fp16", "single-file"]
FORMATS: tuple[Format, ...] = get_args(Format)

LORA_RANK, LORA_ALPHA = 8, 4.0
LORA_LAYERS = re.compile(r"(.*\.attn[12]\.to_(?:q|k|v|out\.0))\.weight")
ARCHITECTURE_KEY = "modelspec.architecture"
SD21_ARCHITECTURES = {"v_prediction": "stable-diffusion-v2-768-v"}
"""SD 2.x files do not show in their weights which model they are; trainers say it in this key."""


@dataclass(frozen=True)
class RandomCheckpoint:
    """A checkpoint that is not written yet.

    Attributes:
        configuration: of the architecture.
        seed: of the weights.
    """

    configuration: Configuration
    seed: int = 0

    @classmethod
    def of(cls, model: str | Path, seed: int = 0) -> RandomCheckpoint:
        """The architecture `model`: one of :data:`KINDS`, or a folder in diffusers' layout.

        Raises:
            CheckpointError: there are no such configurations.
        """
        return cls(configuration_named(model), seed)

    @cached_property
    def shapes(self) -> Mapping[str, Shapes]:
        """Of every weight, by part, under the names that published folders have."""
        found = {}
        for part in self.configuration.parts:
            module = empty_module(part, self.configuration.read(part), str(part))
            state = module.state_dict()
            found[part] = {_published(part, n): tuple(t.shape) for n, t in state.items()}
        return found

    def elements(self, part: str | None = None) -> int:
        """Numbers in the weights of `part`; None: of all parts."""
        parts = self.shapes if part is None else (part,)
        return sum(prod(shape) for name in parts for shape in self.shapes[name].values())

    def write(self, form: Format, path: Path) -> Path:
        """Write the checkpoint to `path` in one of :data:`FORMATS`.

        Raises:
            StorageError: the disk is full or the place may not be written.
        """
        if form == "single-file":
            self._write_single_file(path)
        else:
            self._write_folder(path, "float16" if form == "folder-fp16" else "float32")
        return path

    def write_lora(self, path: Path) -> Path:
        """Write a LoRA for every attention of the UNet to `path`, under kohya's names."""
        shapes = self.shapes["unet"]
        tensors: list[StreamedTensor] = []
        for name, shape in shapes.items():
            if match := LORA_LAYERS.fullmatch(name):
                rows, columns = shape[:2]
                stem = f"lora_unet_{self._kohya_name(match[1]).replace('.', '_')}"
                down, up = f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"
                tensors += [
                    self._streamed("lora", down, (LORA_RANK, columns)),
                    self._streamed("lora", up, (rows, LORA_RANK)),
                    StreamedTensor(f"{stem}.alpha", (), "float16", _alpha),
                ]
        write_safetensors(path, tensors)
        return path

    def _kohya_name(self, layer: str) -> str:
        """kohya's trainers name SDXL's blocks as the original implementation does."""
        if self.configuration.family != "sdxl":
            return layer
        layers = int(self.configuration.read("unet")["layers_per_block"])
        return original_unet_name(layer, self.shapes["unet"], layers)

    def _write_folder(self, root: Path, dtype: Literal["float16", "float32"]) -> None:
        infix = ".fp16" if dtype == "float16" else ""
        copy_configuration(self.configuration, root)
        for part, shapes in self.shapes.items():
            tensors = [self._streamed(part, n, shape, dtype) for n, shape in shapes.items()]
            file = root / part / f"{weight_stem(part)}{infix}.safetensors"
            write_safetensors(file, tensors, {"format": "pt"})

    def _write_single_file(self, path: Path) -> None:
        sections = single_file_tensors(self.shapes, self.configuration.read("unet"))
        tensors = [self._original(part, t) for part, own in sections.items() for t in own]
        prediction = self.configuration.read("scheduler").get("prediction_type")
        metadata = {"format": "pt"}
        if self.configuration.family == "sd" and prediction in SD21_ARCHITECTURES:
            metadata[ARCHITECTURE_KEY] = SD21_ARCHITECTURES[prediction]
        write_safetensors(path, tensors, metadata)

    def _streamed(
        self, part: str, name: str, shape: tuple[int, ...], dtype: str = "float16"
    ) -> StreamedTensor:
        def pieces() -> Iterator[NDArray[Any]]:
            for piece in random_pieces(self.seed, part, name, shape):
                yield piece.astype(dtype, copy=False)

        return StreamedTensor(name, shape, dtype, pieces)

    def _original(self, part: str, tensor: OriginalTensor) -> StreamedTensor:
        shapes = self.shapes[part]

        def pieces() -> Iterator[NDArray[Any]]:
            for source in tensor.sources:
                drawn = random_pieces(self.seed, part, source, shapes[source])
                if tensor.layout == "transposed":
                    yield whole(drawn, shapes[source]).T
                else:
                    yield from drawn

        return StreamedTensor(tensor.name, tensor.shape(shapes), "float16", pieces)


def copy_configuration(configuration: Configuration, root: Path) -> None:
    """Write everything of a checkpoint's folder but the weights to `root`."""
    for part in (*configuration.parts, "scheduler"):
        file = configuration.file(part)
        (root / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, root / part / file.name)
    for part in configuration.tokenizers:
        with configuration.tokenizer_folder(part) as folder:
            shutil.copytree(folder, root / part, dirs_exist_ok=True)
    index = json.dumps(configuration.model_index, indent=2)
    (root / "model_index.json").write_text(index + "\n", encoding="utf-8")


def _published(part: str, name: str) -> str:
    """Published text encoders have a prefix that newer versions of transformers leave out."""
    plain = not part.startswith("text_encoder") or name.startswith(("text_model.", "text_proj"))
    return name if plain else f"text_model.{name}"


def _alpha() -> Iterator[NDArray[Any]]:
    yield np.full(1, LORA_ALPHA, np.float16)


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.random_checkpoint", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", default="sd15", help=f"{', '.join(KINDS)}, or a folder")
    parser.add_argument("--format", choices=FORMATS, default="folder-fp16")
    parser.add_argument("--output", type=Path, required=True, help="folder or file to write")
    parser.add_argument("--lora", type=Path, help="write a LoRA to this file as well")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write what the command line asks for."""
    checkpoint = RandomCheckpoint.of(arguments.model, arguments.seed)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    print(checkpoint.write(arguments.format, arguments.output))
    if arguments.lora:
        print(checkpoint.write_lora(arguments.lora))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
