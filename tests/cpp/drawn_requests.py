"""Calls drawn at random, in the words of both runtimes: most arguments valid, some at an edge."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fam_runtime.bundle import PixelSize, Target
from fam_runtime.methods import METHODS


@dataclass
class Drawn:
    """One call in the words of both runtimes."""

    python: dict[str, Any] = field(default_factory=dict)
    cpp: dict[str, Any] = field(default_factory=dict)

    def both(self, name: str, value: object) -> None:
        self.python[name], self.cpp[name] = value, value

    def number(self, name: str, value: float) -> None:
        self.python[name], self.cpp[name] = value, repr(value)


TEXTS = ["a cat", "Ünïcode 赤い輪", 'quotes " and \\', "tab\tbell\x07", "x" * 20_000, " a "]
BAD_TEXTS = ["", " \n ", "x" * 20_001, "é" * 20_001]
FLOATS = [0.0, -0.0, 1.0, 0.7, 0.1 + 0.2, 1e-300, 999.999, 1000.0]
BAD_FLOATS = [-1e-9, 1000.0000001, 1e308, float("inf"), float("-inf"), float("nan")]


def pick(rng: random.Random, good: Sequence[Any], bad: Sequence[Any]) -> Any:
    """One of `good`; sometimes one of `bad`, rarely enough that most calls have one mistake."""
    return rng.choice(bad if rng.random() < 0.12 else good)


def draw_call(rng: random.Random, native: PixelSize, targets: tuple[Target, ...]) -> Drawn:
    drawn = Drawn()
    draw_texts(rng, drawn)
    draw_size(rng, drawn, native, targets)
    draw_seeds(rng, drawn)
    strengths = [*BAD_FLOATS, 1.01]
    draws: list[Callable[[], None]] = [
        lambda: drawn.both("num_inference_steps", pick(rng, [1, 2, 1000, 10**12], [0, -3])),
        lambda: drawn.number("guidance_scale", pick(rng, FLOATS, BAD_FLOATS)),
        lambda: drawn.number("am_strength", pick(rng, [0.0, 0.5, 1.0], strengths)),
        lambda: drawn.both("method", pick(rng, [*METHODS], ["", "FAM", "ünknown\n"])),
        lambda: drawn.both("scheduler", rng.choice(["ddim", "dpm++2m", "no such sampler"])),
        lambda: drawn.both("noise", pick(rng, ["torch-cpu", "torch-cuda"], ["torch", ""])),
        lambda: drawn.both("native_attention", pick(rng, ["auto", "store", "replay"], ["", "x"])),
        lambda: drawn.both("pictures_per_batch", pick(rng, [1, 2, 1000, 2**62], [0, -1])),
        lambda: draw_tile(rng, drawn),
    ]
    for draw in draws:
        if rng.random() < 0.3:
            draw()
    return drawn


def draw_texts(rng: random.Random, drawn: Drawn) -> None:
    def text(bad: float) -> str:
        return rng.choice(BAD_TEXTS if rng.random() < bad else TEXTS)

    count = rng.choice([1, 1, 1, 2, 3, 5])
    prompts = [text(0.02) for _ in range(count)]
    drawn.cpp["prompts"] = prompts
    drawn.python["prompt"] = prompts[0] if count == 1 and rng.random() < 0.5 else prompts
    if rng.random() < 0.02:
        drawn.cpp["prompts"], drawn.python["prompt"] = [], []
    kind = rng.random()
    if kind < 0.3:
        one = rng.choice([text(0.1), "", None])
        drawn.python["negative_prompt"], drawn.cpp["negative_prompts"] = one, [one]
    elif kind < 0.6:
        several = [rng.choice([text(0.05), "", None]) for _ in range(count)]
        several += ["one more"] * (rng.random() < 0.1)
        drawn.python["negative_prompt"] = drawn.cpp["negative_prompts"] = several
    if rng.random() < 0.4:
        drawn.both("num_images_per_prompt", pick(rng, [1, 2, 7, 200], [501, 0, -1, 2**60]))


def draw_size(
    rng: random.Random, drawn: Drawn, native: PixelSize, targets: tuple[Target, ...]
) -> None:
    kind = rng.random()
    if kind < 0.25:
        return
    if kind < 0.6:
        pair = rng.choice(
            [
                *(
                    (target.height / native.height, target.width / native.width)
                    for target in targets
                ),
                (2.0, 2.0),
                (3.0, 3.0),
                (2.0, 4.0),
                (4 / 3, 2.0),
                (1.0, 1.0),
                (8.0, 8.0),
                (9.0, 1.0),
                (2.0000001, 2.0),
                (1.99, 1.99),
                (0.0, 2.0),
                (rng.uniform(0, 10), rng.uniform(0, 10)),
                (rng.choice(BAD_FLOATS), 2.0),
                (2.0, rng.choice(BAD_FLOATS)),
            ],
        )
        drawn.python["scale"] = pair[0] if pair[0] == pair[1] else pair
        drawn.cpp["scale"] = [repr(pair[0]), repr(pair[1])]
    if kind > 0.58:
        bad = [(128, 128), (100, 128), (0, 64), (-8, 64), (2**40, 64)]
        bad.append((64 * rng.randint(1, 40), 64 * rng.randint(1, 40)))
        built_sizes = [(target.height, target.width) for target in targets]
        height, width = pick(rng, built_sizes or bad, bad)
        if rng.random() < 0.95:
            drawn.both("height", height)
        if rng.random() < 0.95:
            drawn.both("width", width)


def draw_seeds(rng: random.Random, drawn: Drawn) -> None:
    kind = rng.random()
    edges = [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64 - 3]
    if kind < 0.5:
        seed = rng.choice([*edges, rng.getrandbits(64)])
        drawn.python["seed"], drawn.cpp["seeds"] = seed, [seed]
    elif kind < 0.8:
        given = drawn.cpp["prompts"], drawn.cpp.get("num_images_per_prompt", 1)
        count = len(given[0]) * given[1] if 0 < given[1] < 1000 else 3
        seeds = [rng.choice(edges) for _ in range(max(count + pick(rng, [0], [1, -1]), 0))]
        drawn.python["seed"], drawn.cpp["seeds"] = seeds, seeds
        drawn.cpp["one_seed_per_picture"] = True


def draw_tile(rng: random.Random, drawn: Drawn) -> None:
    kind = rng.random()
    if kind < 0.2:
        drawn.both("tile", None)
        return
    tile = pick(rng, [16, 17, 64, 128, 500, 4096], [15, 1, 0, -4])
    overlap = pick(rng, [0, 0, tile // 4, tile // 2, 1], [tile // 2 + 1])
    if overlap <= 0 or tile < 1:
        drawn.python["tile"], drawn.cpp["tile"] = tile, [tile, 0]
        return
    drawn.cpp["tile"] = [tile, overlap]
    # What Python refuses when it is made; as an argument it is a Tiling.
    drawn.python["tile"] = (tile, overlap)
