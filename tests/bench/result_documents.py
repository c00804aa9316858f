"""Results files as fam-bench writes them, of times that follow from a model of the cost."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from fam_bench.latency.contestants import BY_NAME
from fam_bench.latency.results.results_file import RESULTS_FORMAT
from fam_bench.latency.results.spread import percentiles, relative_spread

SPEED = {
    "torch-literal": 1.9,
    "torch-eager": 1.0,
    "torch-compile": 0.82,
    "onnxruntime-cpu": 0.7,
    "openvino": 0.55,
    "cpp": 0.69,
}
TITLES = {name: BY_NAME[name].title for name in SPEED}
NATIVE_SIDE = 64
STEPS, ROUNDS = 12, 8

Document = dict[str, Any]


def step_seconds(kind: str, pixels: int) -> float:
    """Convolutions grow as the pixels and attention as their square."""
    base = 0.008 * pixels / 64**2 + 0.0015 * (pixels / 64**2) ** 2
    return base * {"target": 1.04, "native": 1.02, "without_am": 1.01}.get(kind, 1.0)


def results(
    scales: tuple[float, ...] = (2.0, 4.0),
    contestants: tuple[str, ...] = tuple(TITLES),
    *,
    noise: float = 0.02,
    slowness: float = 1.0,
    seed: int = 0,
) -> Document:
    """A whole document.

    Args:
        scales: of the targets.
        contestants: who took part.
        noise: of a round, relative.
        slowness: of the machine.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    document = _facts(scales)
    for scale in (1.0, *scales):
        pixels = int((NATIVE_SIDE * scale) ** 2)
        kinds = ("native", "native_plain") if scale == 1 else ("target", "plain", "picture")
        for kind in kinds:
            for contestant in contestants:
                expected = SPEED[contestant] * slowness * expected_seconds(kind, pixels)
                rounds = expected * np.exp(noise * random.standard_normal(ROUNDS))
                row = new_row(contestant, kind, scale, pixels, rounds.tolist())
                document["figures"].append(row)
    derive(document)
    return document


def _facts(scales: tuple[float, ...]) -> Document:
    """A document without times."""
    return {
        "format": RESULTS_FORMAT,
        "made_by": "fam-bench 0.1.0",
        "when": "2026-11-22T03:00:00Z",
        "machine": {
            "cpu": "AMD EPYC",
            "cores": 2,
            "memory_bytes": 25276510208,
            "system": "Linux-6.18",
            "python": "3.11.7",
            "packages": {"numpy": "2.4.6", "torch": "2.13.0+cpu", "onnxruntime": "1.31.1"},
        },
        "gpu": None,
        "no_gpu": "no NVIDIA driver",
        "device": "cpu",
        "bundle": {
            "name": "demo",
            "hash": "3f" * 32,
            "family": "sd",
            "dtype": "fp32",
            "tf32": False,
            "native": f"{NATIVE_SIDE}x{NATIVE_SIDE}",
        },
        "settings": {
            "steps": STEPS,
            "rounds": ROUNDS,
            "threads": 2,
            "seed": 0,
            "prompt": "a red circle on a white background",
            "scales": list(scales),
            "scheduler": "ddim",
            "guidance_scale": 7.5,
        },
        "figures": [],
        "parts": [],
        "not_run": [
            {"contestant": "tensorrt", "kind": "target", "scale": 2.0, "reason": "needs a GPU"}
        ],
    }


def expected_seconds(kind: str, pixels: int) -> float:
    if kind == "picture":
        return sum(stages_of(pixels).values())
    return step_seconds(kind, pixels)


def stages_of(pixels: int) -> dict[str, float]:
    """Seconds of a picture's stages for the eager contestant."""
    return {
        "text": 0.02,
        "native": STEPS * step_seconds("native", NATIVE_SIDE**2),
        "upsample": 0.002,
        "target": STEPS * step_seconds("target", pixels),
        "decode": 0.03 * pixels / NATIVE_SIDE**2,
        "load": 0.0,
    }


def new_row(
    contestant: str,
    kind: str,
    scale: float,
    pixels: int | None,
    rounds: list[float],
) -> Document:
    row: Document = {
        "contestant": contestant,
        "title": TITLES.get(contestant, contestant),
        "kind": kind,
        "scale": scale,
        "pixels": pixels,
        "group": 1,
        "build_seconds": 0.0,
        "load_seconds": 0.4,
        "first_seconds": 0.1,
        "device_seconds": [],
        "median_device_seconds": None,
        "stage_seconds": {},
        "ratio_to_eager": None,
        "ratio_to_plain": None,
        "peak_host_bytes": 200_000_000,
        "peak_device_bytes": None,
        "memory_ratio_to_plain": None,
        "fidelity": None,
    }
    if contestant != "torch-eager":
        row["fidelity"] = {"against": "torch-eager", "psnr_db": 105.0, "max_error": 1e-5}
    set_rounds(row, rounds)
    if kind == "picture" and pixels:
        own = stages_of(pixels)
        share = row["median_seconds"] / sum(own.values())
        row["stage_seconds"] = {name: seconds * share for name, seconds in own.items()}
    return row


def set_rounds(row: Document, rounds: list[float]) -> None:
    """Give a row other times."""
    row["seconds"], row["round_seconds"] = rounds, rounds
    row["n"], row["min_seconds"] = len(rounds), min(rounds)
    row["median_seconds"], row["p95_seconds"] = percentiles(rounds)
    row["spread"] = relative_spread(rounds)


def derive(document: Document) -> None:
    """Ratios and parts, from the times."""
    rows = {(r["contestant"], r["kind"], r["scale"]): r for r in document["figures"]}
    document["parts"] = []
    for (contestant, kind, scale), row in rows.items():
        own = median(row["seconds"])
        if eager := rows.get(("torch-eager", kind, scale)):
            row["ratio_to_eager"] = own / median(eager["seconds"])
        if plain := rows.get((contestant, "plain", scale)):
            row["ratio_to_plain"] = own / median(plain["seconds"])
        if kind == "target" and plain:
            cost = own - median(plain["seconds"])
            part = {"contestant": contestant, "scale": scale, "part": "FM + AM", "seconds": cost}
            ratio = {"ratio_to_plain": row["ratio_to_plain"], "spread": row["spread"]}
            document["parts"].append(part | ratio)


def row_of(document: Document, contestant: str, kind: str, scale: float) -> Document:
    """The row itself."""
    key = (contestant, kind, scale)
    return next(
        row for row in document["figures"] if (row["contestant"], row["kind"], row["scale"]) == key
    )
