"""Draws the training curves: `python -m fam_export.demo.curve --logs DIR --output FILE.png`.

Needs matplotlib (the `bench` extra).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def read_log(path: Path, key: str) -> tuple[FloatArray, FloatArray]:
    """Minutes since the start [n] and the figure `key` [n] of a stage's log."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    minutes = np.array([line["seconds"] / 60.0 for line in lines], dtype=np.float64)
    return minutes, np.array([line[key] for line in lines], dtype=np.float64)


def smoothed(values: FloatArray, width: int) -> FloatArray:
    """Moving average over `width` neighbours, shorter at the ends."""
    kernel = np.ones(min(width, len(values)))
    weight = np.convolve(np.ones_like(values), kernel, mode="same")
    return np.convolve(values, kernel, mode="same") / weight


def main(arguments: list[str] | None = None) -> None:
    """One panel a stage: the autoencoder's PSNR and the noise predictor's loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description="Draw the demo checkpoint's training curves.")
    parser.add_argument("--logs", type=Path, required=True, help="the training's --output folder")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    figure, panels = pyplot.subplots(1, 2, figsize=(9.0, 3.2), layout="constrained")
    stages = (
        ("vae", "psnr", "PSNR of training batches, dB", "linear"),
        ("unet", "loss", "epsilon loss (mean squared error)", "log"),
    )
    for panel, (stage, key, label, scale) in zip(panels, stages, strict=True):
        minutes, values = read_log(options.logs / f"{stage}.jsonl", key)
        panel.plot(minutes, values, color="0.8", linewidth=0.6)
        panel.plot(minutes, smoothed(values, 15), color="tab:blue", linewidth=1.4)
        panel.set(title=stage, xlabel="minutes", ylabel=label, yscale=scale)
        panel.grid(alpha=0.3)
    figure.savefig(options.output, dpi=100)


if __name__ == "__main__":
    main()
