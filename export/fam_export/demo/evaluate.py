"""Scores a checkpoint: do its native pictures show what the prompt says, once?

`python -m fam_export.demo.evaluate --output DIR` samples fresh prompts with diffusers' own pipeline
(no code of this project draws the pictures) and lets `recognise` look at them.  It writes
`evaluation.json` and `samples.png`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from fam_export.demo.recognise import Recognition, recognise
from fam_export.demo.scenes import Attributes, caption, parse_caption, sample_scene

CHECKPOINT = Path(__file__).parent / "checkpoint"
PROMPT_SEED = 20_000
BATCH = 20
GRID_COLUMNS = 10


@dataclass(frozen=True)
class Score:
    """Shares of pictures, 0..1; each attribute over the prompts that say it."""

    prompts: int
    right: float  # exactly one object of the wanted shape and colour
    one_object: float
    shape: float
    colour: float
    background: float
    position: float


def fresh_prompts(count: int) -> list[str]:
    """Random captions that name at least a shape and a colour."""
    rng = np.random.default_rng(PROMPT_SEED)
    prompts: list[str] = []
    while len(prompts) < count:
        text = caption(sample_scene(rng), rng)
        said = parse_caption(text)
        if said.shape and said.colour:
            prompts.append(text)
    return prompts


def sample_pictures(
    folder: Path, prompts: list[str], steps: int, guidance_scale: float, seed: int
) -> NDArray[np.uint8]:
    """Native pictures, uint8 [n, H, W, 3], by diffusers' StableDiffusionPipeline in float32."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for start in range(0, len(prompts), BATCH):
        result = pipeline(
            prompts[start : start + BATCH],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type="np",
        )
        pictures.append(np.rint(np.asarray(result.images) * 255.0).astype(np.uint8))
    return np.concatenate(pictures)


def _share(seen: list[Recognition], wanted: list[Attributes], name: str) -> float:
    """How often attribute `name` is right, over the prompts that say it."""
    right = [
        bool(getattr(s, name) == getattr(w, name))
        for s, w in zip(seen, wanted, strict=True)
        if getattr(w, name) is not None
    ]
    return sum(right) / max(len(right), 1)


def score(pictures: NDArray[np.uint8], prompts: list[str]) -> tuple[Score, list[Recognition]]:
    """Recognise every picture and compare it with its prompt."""
    seen = [recognise(picture) for picture in pictures]
    wanted = [parse_caption(text) for text in prompts]
    matches = [s.matches(w) for s, w in zip(seen, wanted, strict=True)]
    figures = Score(
        prompts=len(prompts),
        right=sum(matches) / len(prompts),
        one_object=sum(s.count == 1 for s in seen) / len(prompts),
        shape=_share(seen, wanted, "shape"),
        colour=_share(seen, wanted, "colour"),
        background=_share(seen, wanted, "background"),
        position=_share(seen, wanted, "position"),
    )
    return figures, seen


def picture_grid(pictures: NDArray[np.uint8], columns: int = GRID_COLUMNS) -> Image.Image:
    """Lay pictures [n, H, W, 3] out in rows, with a white gap of 2 pixels."""
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows = [padded[i : i + columns] for i in range(0, len(padded) - columns + 1, columns)]
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def main(arguments: list[str] | None = None) -> None:
    """Sample, score, write the report."""
    parser = argparse.ArgumentParser(description="Score a demo checkpoint's native pictures.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    prompts = fresh_prompts(options.prompts)
    pictures = sample_pictures(
        options.checkpoint, prompts, options.steps, options.guidance_scale, options.seed
    )
    figures, seen = score(pictures, prompts)
    options.output.mkdir(parents=True, exist_ok=True)
    report = asdict(figures) | {"steps": options.steps, "guidance_scale": options.guidance_scale}
    report["failures"] = [
        {"prompt": text, **asdict(what)}
        for text, what in zip(prompts, seen, strict=True)
        if not what.matches(parse_caption(text))
    ]
    (options.output / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    picture_grid(pictures[:40]).save(options.output / "samples.png", optimize=True)
    print(json.dumps(asdict(figures), indent=2))


if __name__ == "__main__":
    main()
