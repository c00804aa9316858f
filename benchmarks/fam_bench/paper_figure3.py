"""The paper's Fig. 3, counted: how often does each method show one object, as the prompt says?

``python -m fam_bench.paper_figure3 engines/demo --output DIR`` makes the same prompts with every
method at every scale of the demo bundle, scores each picture with the renderer's ground truth, and
writes ``results.json``, ``table.md`` and ``grid.png``. It may be stopped and run again: finished
pictures are read from its log.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from fam_bench.picture_scores import PictureScore, score_picture
from fam_export.demo.scenes import Scene, caption, sample_scene
from fam_graph.frequency_modulation import CutoffReference, frequency_modulation_tables
from fam_runtime import FamPipeline
from fam_runtime.bundle import KernelTables
from fam_runtime.cli.errors import run_cli

PROMPT_SEED = 64_000
GRID_PROMPTS = 6
GRID_TILE_PIXELS = 128
GRID_GAP_PIXELS = 4
GRID_TITLE_PIXELS = 20


@dataclass(frozen=True)
class Variant:
    """A method with a reading of FM's cut-off.

    Attributes:
        label: row of the table.
        method: name in the runtime.
        cutoff: reading of Eqs. 8-11; None where the method has no box.
    """

    label: str
    method: str
    cutoff: CutoffReference | None = None


VARIANTS = (
    Variant("direct", "direct"),
    Variant("direct-latent", "direct-latent"),
    Variant("skip-residual", "skip-residual"),
    Variant("fm", "fm", "target"),
    Variant("fam", "fam", "target"),
    Variant("fm, native cut-off", "fm", "native"),
    Variant("fam, native cut-off", "fam", "native"),
)


@dataclass(frozen=True)
class Job:
    """One picture to make: prompt number, scale and variant."""

    index: int
    prompt: str
    scale: int
    variant: Variant

    @property
    def key(self) -> str:
        """Identifies the job in the log."""
        return f"{self.scale}x {self.variant.label} {self.index}"


def full_prompts(count: int) -> list[str]:
    """Captions of random scenes that say everything about the scene."""
    rng = np.random.default_rng(PROMPT_SEED)
    scenes = (sample_scene(rng) for _ in range(count))
    plain = (Scene(s.shape, s.colour, s.texture, s.background, s.position) for s in scenes)
    return [caption(scene) for scene in plain]


class Study:
    """Runs the jobs that are not done yet.

    Args:
        pipeline: of the demo bundle.
        output: folder of the results.
        steps, scheduler: for every picture, native and target.
    """

    def __init__(
        self, pipeline: FamPipeline, output: Path, steps: int, scheduler: str | None
    ) -> None:
        self.pipeline, self.output, self.steps, self.scheduler = pipeline, output, steps, scheduler
        self._tables: dict[tuple[int, CutoffReference], KernelTables] = {}
        output.mkdir(parents=True, exist_ok=True)
        self.log = output / f"pictures-{pipeline.bundle.hash[:12]}-{scheduler}-{steps}.jsonl"

    def run(self, jobs: Sequence[Job]) -> dict[str, PictureScore]:
        """Scores of all jobs by key; pictures of the grid's prompts are kept as PNG."""
        scores = finished_scores(self.log)
        missing = [job for job in jobs if job.key not in scores]
        with self.log.open("a", encoding="utf-8") as log:
            for job in tqdm(missing, desc="pictures", disable=not missing):
                scores[job.key] = self._make(job)
                log.write(json.dumps({"key": job.key, **asdict(scores[job.key])}) + "\n")
                log.flush()
        return {job.key: scores[job.key] for job in jobs}

    def picture_path(self, job: Job) -> Path:
        """Where the picture of a job is kept."""
        name = job.variant.label.replace(", ", "-").replace(" ", "-")
        return self.output / "pictures" / f"{job.index:03}-{job.scale}x-{name}.png"

    def native_path(self, index: int) -> Path:
        """Where the native picture of a prompt is kept."""
        return self.output / "pictures" / f"{index:03}-native.png"

    def _make(self, job: Job) -> PictureScore:
        result = self.pipeline(
            job.prompt,
            scale=job.scale,
            seed=job.index,
            method=job.variant.method,
            num_inference_steps=self.steps,
            scheduler=self.scheduler,
            fm_tables=self._fm_tables(job),
            return_native=True,
        )
        assert isinstance(result.images, list) and isinstance(result.native_images, list)
        picture, native = np.asarray(result.images[0]), np.asarray(result.native_images[0])
        if job.index < GRID_PROMPTS:
            self.picture_path(job).parent.mkdir(exist_ok=True)
            result.images[0].save(self.picture_path(job))
            result.native_images[0].save(self.native_path(job.index))
        return score_picture(picture, native, job.prompt)

    def _fm_tables(self, job: Job) -> KernelTables | None:
        cutoff = job.variant.cutoff
        if cutoff is None:
            return None
        if (job.scale, cutoff) not in self._tables:
            manifest = self.pipeline.bundle.manifest
            target = manifest.latent_size(manifest.target_for_scale(job.scale))
            native = manifest.latent_size(manifest.native)
            tables = frequency_modulation_tables(*target, *native, cutoff_reference=cutoff)
            self._tables[job.scale, cutoff] = KernelTables(
                tables.rows.numpy(), tables.columns.numpy(), tables.weight.numpy()
            )
        return self._tables[job.scale, cutoff]


def finished_scores(log: Path) -> dict[str, PictureScore]:
    """Scores in a log by key; a line that a kill cut off is left out, and made again."""
    scores: dict[str, PictureScore] = {}
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        key = record.pop("key")
        scores[key] = PictureScore(**record)
    return scores


def summaries(jobs: Sequence[Job], scores: dict[str, PictureScore]) -> Iterator[dict[str, Any]]:
    """One row per scale and variant."""
    for scale in sorted({job.scale for job in jobs}):
        for variant in VARIANTS:
            rows = [scores[j.key] for j in jobs if (j.scale, j.variant) == (scale, variant)]
            yield {
                "scale": scale,
                "method": variant.label,
                "pictures": len(rows),
                "one_object_right_shape": float(np.mean([r.right_shape for r in rows])),
                "one_object_right_shape_and_colour": float(np.mean([r.right for r in rows])),
                "one_object": float(np.mean([r.count == 1 for r in rows])),
                "layout_distance": float(np.mean([r.layout_distance for r in rows])),
                "sharpness": float(np.median([r.sharpness for r in rows])),
            }


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the README."""
    lines = [
        "| scale | method | one object, right shape | distance to native | sharpness |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['scale']}x | {row['method']} | {100 * row['one_object_right_shape']:.0f} % "
        f"| {row['layout_distance']:.3f} | {row['sharpness']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def picture_grid(study: Study, jobs: Sequence[Job], scale: int) -> Image.Image:
    """A row per prompt: the native picture, then the methods with the default cut-off."""
    variants = [v for v in VARIANTS if v.cutoff != "native"]
    rows = []
    for index in sorted({job.index for job in jobs if job.index < GRID_PROMPTS}):
        paths = [study.native_path(index)]
        for variant in variants:
            job = next(j for j in jobs if (j.index, j.scale, j.variant) == (index, scale, variant))
            paths.append(study.picture_path(job))
        rows.append(np.concatenate([_tile(path) for path in paths], axis=1))
    titles = ["native", *(f"{variant.label} {scale}x" for variant in variants)]
    return Image.fromarray(np.concatenate([_titles(titles), *rows]))


def _titles(titles: Sequence[str]) -> NDArray[np.uint8]:
    """A row with the name of each column."""
    column = GRID_TILE_PIXELS + GRID_GAP_PIXELS
    row = Image.new("RGB", (column * len(titles), GRID_TITLE_PIXELS), "white")
    draw = ImageDraw.Draw(row)
    for index, title in enumerate(titles):
        middle = (column * index + column // 2, GRID_TITLE_PIXELS // 2)
        draw.text(middle, title, fill="black", anchor="mm", font_size=GRID_TITLE_PIXELS * 2 // 3)
    return np.asarray(row)


def _tile(path: Path) -> NDArray[np.uint8]:
    """A picture at the grid's size; smaller ones keep their hard pixels."""
    with Image.open(path) as picture:
        smaller = picture.width < GRID_TILE_PIXELS
        filter_ = Image.Resampling.NEAREST if smaller else Image.Resampling.BOX
        shown = picture.convert("RGB").resize((GRID_TILE_PIXELS, GRID_TILE_PIXELS), filter_)
    gap = GRID_GAP_PIXELS // 2
    return np.pad(np.asarray(shown), ((gap, gap), (gap, gap), (0, 0)), constant_values=255)


def part_from_text(text: str) -> tuple[int, int]:
    """``"1/2"`` → ``(1, 2)``.

    Raises:
        ValueError: it is not I/N with 1 <= I <= N.
    """
    first, parts = (int(part) for part in text.split("/"))
    if not 1 <= first <= parts:
        raise ValueError(f"expected I/N with 1 <= I <= N, got {text!r}")
    return first, parts


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.paper_figure3", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="bundle of the demo checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--scheduler", help="default: the bundle's")
    parser.add_argument("--threads", type=int, help="default: one per core")
    parser.add_argument(
        "--part",
        type=part_from_text,
        metavar="I/N",
        help="make only every N-th picture, from the I-th on, and no table: N processes share the "
        "work, and a run without --part makes the table of what they made",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Make and score the pictures, then write table and grid."""
    prompts = full_prompts(arguments.prompts)
    jobs = [
        Job(index, prompt, scale, variant)
        for scale in arguments.scales
        for index, prompt in enumerate(prompts)
        for variant in VARIANTS
    ]
    with FamPipeline.from_pretrained(
        arguments.bundle, num_threads=arguments.threads, progress=False
    ) as pipeline:
        study = Study(pipeline, arguments.output, arguments.steps, arguments.scheduler)
        if arguments.part:
            first, parts = arguments.part
            study.run(jobs[first - 1 :: parts])
            return 0
        scores = study.run(jobs)
        made_with = {
            "bundle": pipeline.bundle.hash,
            "steps": arguments.steps,
            "scheduler": arguments.scheduler or pipeline.bundle.manifest.defaults.scheduler,
            "prompts": arguments.prompts,
        }
    rows = list(summaries(jobs, scores))
    document = json.dumps({"made_with": made_with, "rows": rows}, indent=1)
    (arguments.output / "results.json").write_text(document + "\n", encoding="utf-8")
    (arguments.output / "table.md").write_text(markdown_table(rows), encoding="utf-8")
    for scale in arguments.scales:
        picture_grid(study, jobs, scale).save(arguments.output / f"grid-{scale}x.png")
    print(markdown_table(rows))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
